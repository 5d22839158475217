//! What a function touches is seen in its first run, whatever it does meanwhile.

use super::*;

/// Memory that is read, changed, moved, emptied and forked, by several threads; whatever is wrong of it is told. `late` asks a child that an earlier
/// call has left.
const RESTLESS: &str = "
import hashlib, mmap, os, threading, time
PAGES, ROOM = 3000, 512
def page(i):
    return hashlib.sha256(b'%d' % i).digest() * 128
def build(n, first=0):
    return bytearray(b''.join(page(i) for i in range(first, first + n)))
big, room = build(PAGES), mmap.mmap(-1, ROOM * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
room[:] = bytes(build(ROOM))
emptied, late, calls, lock, ticks = 0, None, 0, threading.Lock(), [0] * 1000

def tick():
    n = 0
    while True:
        with lock:
            ticks[n % 1000] += 1
            n += 1
            ticks[999 - n % 1000] += 1
            n += 1
        if n % 5000 == 0:
            time.sleep(0.0005)

threading.Thread(target=tick, daemon=True).start()

def wrong(step):
    for i in range(0, PAGES, step):
        if big[i * 4096:(i + 1) * 4096] != page(i):
            return f'page {i} of the moving part'
    for i in range(0, ROOM, step):
        if room[i * 4096:(i + 1) * 4096] != (page(i) if i >= emptied else bytes(4096)):
            return f'page {i} of the room'

def child(test):
    pid = os.fork()
    if pid == 0:
        os._exit(1 if test() else 0)
    return pid

def main(args):
    global emptied, late, calls, PAGES
    calls += 1
    found, started = [wrong(args['step'])], None
    if args.get('late'):
        os.write(late[1], b'x')
        found.append(os.waitpid(late[0], 0)[1] and 'a child that was left')
    before = sum(ticks)
    children = [child(lambda: wrong(1)) for _ in range(2)]
    room.madvise(mmap.MADV_DONTNEED, 0, (emptied + 32) * 4096)
    emptied += 32
    big.extend(build(200, PAGES))
    PAGES += 200
    found += [os.waitpid(pid, 0)[1] and 'a child' for pid in children]
    if args.get('leave'):
        ends = os.pipe()
        late = (child(lambda: os.read(ends[0], 1) == b'' or wrong(1)), ends[1])
        os.close(ends[0])
    found.append(wrong(args['step']))
    with lock:
        found.append(None if sum(ticks) % 2 == 0 and sum(ticks) >= before else 'ticks')
    found = [what for what in found if what]
    return {'found': found, 'calls': calls, 'ok': not found}
";

/// The actions' own memory is whole, and a few pages of it are known to be touched.
#[test]
fn memory_is_whole_whatever_happens_while_it_is_watched() {
    let Some(mut options) = options("watch") else { return };
    with_action(&mut options, "restless", RESTLESS);
    let sandboxes = start(options);
    // One page in fifty before anything else happens, then all of them.
    let steps = [(50, true), (1, false), (7, false)];
    for (slot, reduced) in [(1, false), (2, true)] {
        sandboxes.exchange_touched("restless", None);
        sandboxes.spawn(id(slot), "restless", soon()).unwrap();
        for (calls, (step, leave)) in (1..).zip(steps) {
            let (leave, late) = (leave && !reduced, calls == 2 && !reduced);
            let arguments = serde_json::json!({ "step": step, "leave": leave, "late": late }).to_string();
            let answer = sandboxes.run(id(slot), &arguments, soon()).unwrap();
            right(&answer);
            assert!(answer.body.contains(&format!("\"calls\": {calls}")), "{}", answer.body);
            assert!(sandboxes.exchange_touched("restless", None).is_some() == (calls == 1), "call {calls}");
        }
    }
    // What was seen is of use, and nothing is missing that was not.
    sandboxes.spawn(id(3), "restless", soon()).unwrap();
    right(&sandboxes.run(id(3), "{\"step\": 50}", soon()).unwrap());
    for again in [false, true] {
        sandboxes.reduce(id(3), Method::Patches, again, soon()).unwrap();
        sandboxes.restore(id(3), soon()).unwrap();
        right(&sandboxes.run(id(3), "{\"step\": 50}", soon()).unwrap());
        right(&sandboxes.run(id(3), "{\"step\": 1}", soon()).unwrap());
    }
}

#[test]
fn what_a_function_touches_is_there_before_any_of_it_goes_on() {
    let Some(mut options) = options("learn") else { return };
    with_action(&mut options, "counter", COUNTER);
    let bases = Wrapped::new(Near::new(2));
    let given = bases.given.clone();
    let sandboxes = start_with(options, bases);
    // Seen in the first run of the first one.
    for slot in [1, 2] {
        sandboxes.spawn(id(slot), "counter", soon()).unwrap();
        assert_eq!(count(&sandboxes, id(slot), "a").0, 1);
        sandboxes.reduce(id(slot), Method::Patches, false, soon()).unwrap();
    }
    let mut parts = Vec::new();
    for (slot, round) in [(1, 0), (2, 1), (1, 2)] {
        let before = given.lock().unwrap().len();
        sandboxes.restore(id(slot), soon()).unwrap();
        parts.push(given.lock().unwrap()[before]);
        let say = format!("b{round}");
        assert_eq!(count(&sandboxes, id(slot), &say), (2, vec!["a".to_owned(), say.clone()]));
        sandboxes.reduce(id(slot), Method::Patches, true, soon()).unwrap();
        // The rest has come behind it.
        let all: u64 = given.lock().unwrap()[before..].iter().sum();
        assert!(parts[round] > 0 && parts[round] < all / 2, "{parts:?} of {all} pages");
    }
    // What a sandbox has missed itself is there the next time.
    assert!(parts[2] >= parts[0], "{parts:?}");
    // Of a function of which nothing is known all is there.
    sandboxes.exchange_touched("counter", None);
    let before = given.lock().unwrap().len();
    sandboxes.restore(id(2), soon()).unwrap();
    assert_eq!(count(&sandboxes, id(2), "c").0, 2);
    let given = given.lock().unwrap().clone();
    assert!(given[before] > 2 * parts[1] && given.len() == before + 1, "{given:?}");
}
