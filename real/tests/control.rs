//! Controller and agents by themselves: real gRPC on loopback, real time, sandboxes that only pretend.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use medes_engine::config::Config;
use medes_engine::event::Method;
use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::policy::FunctionSpec;
use medes_engine::record::{Outcome as Ended, RequestRecord};
use medes_engine::units::{Bytes, Duration as Span, Instant as At};
use medes_real::agent::{AgentConfig, ControllerLink, listen, serve};
use medes_real::bases::index::PageIndex;
use medes_real::bases::service::IndexService;
use medes_real::controller::{Arrival, Deadlines, Outcome, Plan, RunError, run};
use medes_real::load::Load;
use medes_real::ops::{Answer, Checkpointed, NodeMemory, OpError, Reduced, Restored, Sandboxes, Started};
use medes_real::settings::{Settings, TransportKind};
use medes_real::transport::{PeerEvent, Secret};
use medes_real::wire::agent_client::AgentClient;
use medes_real::wire::{Hello, MAX_MESSAGE, Order, OrderKind, PROTOCOL, StepKind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

/// Sandboxes that answer at once; `mapreduce` never, `linalg` wrongly, `authenc` too much. All that are reduced need pages of `bases`.
#[derive(Default)]
struct Pretend {
    there: Arc<Mutex<BTreeMap<SandboxId, String>>>,
    runs: Arc<AtomicU32>,
    bases: Arc<Mutex<Vec<SandboxId>>>,
    reduced: Arc<AtomicU32>,
}

impl Sandboxes for Pretend {
    fn spawn(&self, id: SandboxId, function: &str, _: Instant) -> Result<Started, OpError> {
        self.there.lock().unwrap().insert(id, function.to_owned());
        Ok(Started { took: Duration::from_millis(1) })
    }

    fn run(&self, id: SandboxId, _: &str, deadline: Instant) -> Result<Answer, OpError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let function = self.there.lock().unwrap().get(&id).cloned();
        let Some(function) = function else {
            return Err(OpError::Sandbox { what: "running".into(), reason: "not there".into(), gone: true });
        };
        if function == "mapreduce" {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            return Err(OpError::Late { what: "running".into() });
        }
        std::thread::sleep(Duration::from_millis(5));
        let body = match function.as_str() {
            "linalg" => r#"{"ok": false}"#.to_owned(),
            "authenc" => format!(r#"{{"ok": true, "more": "{}"}}"#, "x".repeat(1 << 20)),
            _ => r#"{"ok": true}"#.to_owned(),
        };
        Ok(Answer { status: 200, body: body.into(), run: Duration::from_millis(5), ..Answer::default() })
    }

    fn checkpoint(&self, id: SandboxId, _: Instant) -> Result<Checkpointed, OpError> {
        self.bases.lock().unwrap().push(id);
        Ok(Checkpointed { dump: Bytes::from_mb(5.0), ..Checkpointed::default() })
    }

    fn reduce(&self, _: SandboxId, _: Method, _: bool, _: Instant) -> Result<Reduced, OpError> {
        self.reduced.fetch_add(1, Ordering::Relaxed);
        Ok(Reduced { stored: Bytes::from_mb(1.0), bases: self.bases.lock().unwrap().clone(), ..Reduced::default() })
    }

    fn restore(&self, _: SandboxId, _: Instant) -> Result<Restored, OpError> {
        Ok(Restored { took: Duration::from_millis(1), ..Restored::default() })
    }

    fn give_up(&self, _: SandboxId) {}

    fn purge(&self, id: SandboxId) {
        self.there.lock().unwrap().remove(&id);
    }

    fn memory(&self) -> NodeMemory {
        let sandboxes = self.there.lock().unwrap().len() as f64;
        NodeMemory { sandboxes: Bytes::from_mb(10.0 * sandboxes), ..NodeMemory::default() }
    }
}

/// An agent in a thread; ends, with its connections, when dropped.
struct Agent {
    address: SocketAddr,
    runs: Arc<AtomicU32>,
    there: Arc<Mutex<BTreeMap<SandboxId, String>>>,
    reduced: Arc<AtomicU32>,
    /// Most who held `there` when a run began: this, what begins runs, and sandboxes of earlier runs.
    holders: Arc<AtomicU32>,
    /// Where its transport would say what it sees of other agents.
    peers: Arc<Mutex<Option<mpsc::UnboundedSender<PeerEvent>>>>,
    /// How it was told to read base pages.
    transport: Arc<Mutex<Option<TransportKind>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    fn start(node: u32, secret: Option<&str>) -> Self {
        Self::with(AgentConfig::new(node, secret.map(Secret::new)))
    }

    fn with(config: AgentConfig) -> Self {
        Self::sharing(config, Arc::default())
    }

    /// One that knows the bases of others.
    fn sharing(config: AgentConfig, bases: Arc<Mutex<Vec<SandboxId>>>) -> Self {
        let node = config.node;
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let runs = Arc::new(AtomicU32::new(0));
        let there: Arc<Mutex<BTreeMap<SandboxId, String>>> = Arc::default();
        let reduced: Arc<AtomicU32> = Arc::default();
        let peers: Arc<Mutex<Option<mpsc::UnboundedSender<PeerEvent>>>> = Arc::default();
        let transport: Arc<Mutex<Option<TransportKind>>> = Arc::default();
        let (counted, made, reductions, seen) = (runs.clone(), there.clone(), reduced.clone(), peers.clone());
        let (asked, holders) = (transport.clone(), Arc::<AtomicU32>::default());
        let most = holders.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = listen(node, "127.0.0.1:0".parse().unwrap()).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let begin = move |settings: &Settings, link: ControllerLink| -> Result<Arc<dyn Sandboxes>, OpError> {
                    most.fetch_max(Arc::strong_count(&made) as u32, Ordering::Relaxed);
                    *asked.lock().unwrap() = Some(settings.transport);
                    *seen.lock().unwrap() = Some(link.peers);
                    let (runs, there) = (counted.clone(), made.clone());
                    Ok(Arc::new(Pretend { runs, there, bases: bases.clone(), reduced: reductions.clone() }))
                };
                let stopped = async { drop(stopped.await) };
                serve(config, listener, Arc::new(begin), stopped).await.unwrap();
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        let (address, stop, thread) = (told.recv().unwrap(), Some(stop), Some(thread));
        Self { address, runs, there, reduced, holders, peers, transport, stop, thread }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

const FUNCTIONS: [&str; 4] = ["vanilla", "linalg", "mapreduce", "authenc"];

fn spec(name: &str) -> FunctionSpec {
    FunctionSpec {
        name: name.to_owned(),
        owner: 0,
        memory: Bytes::from_mb(10.0),
        keep_alive: Span::from_secs(600),
        run: Span::from_millis(5),
        cold_start: Span::from_millis(2),
        warm_start: Span::from_millis(1),
        advantage: 0.5,
        dump: Bytes::from_mb(10.0),
        paused: Bytes::from_mb(1.0),
    }
}

fn addresses(agents: &[&Agent]) -> Vec<watch::Sender<String>> {
    agents.iter().map(|a| watch::channel(a.address.to_string()).0).collect()
}

/// Runs `(ms, function)` requests; `at_tick` sees how many have arrived.
fn go(
    nodes: &[watch::Sender<String>],
    secret: Option<&str>,
    requests: &[(u64, u32)],
    at_tick: impl FnMut(u64),
) -> (Result<Outcome, RunError>, Vec<RequestRecord>) {
    go_under(&[("policy", "fixed")], nodes, secret, requests, at_tick)
}

/// The same under other parameters.
fn go_under(
    parameters: &[(&str, &str)],
    nodes: &[watch::Sender<String>],
    secret: Option<&str>,
    requests: &[(u64, u32)],
    mut at_tick: impl FnMut(u64),
) -> (Result<Outcome, RunError>, Vec<RequestRecord>) {
    let mut config = Config::default();
    for (key, value) in [("nodes", nodes.len().to_string().as_str()), ("memcap", "300")].iter().chain(parameters) {
        config.set(key, value).unwrap();
    }
    let last = requests.last().map_or(0, |r| r.0);
    let plan = Plan {
        config: &config,
        specs: FUNCTIONS.map(spec).to_vec(),
        loads: FUNCTIONS.map(Load::shipped).to_vec(),
        settings: Settings::of(&config),
        deadlines: Deadlines {
            run: Duration::from_millis(300),
            request: Duration::from_millis(700),
            ..Deadlines::default()
        },
        seed: 1,
        length: Span::from_millis(last + 1),
        interval: Span::from_secs(1),
        nodes: nodes.iter().map(watch::Sender::subscribe).collect(),
        listen: "127.0.0.1:0".parse().unwrap(),
        host: "127.0.0.1".to_owned(),
        secret: secret.map(Secret::new),
        start_timeout: Duration::from_secs(2),
        rest: Duration::ZERO,
        threads: 1,
    };
    let mut left: Vec<Arrival> = requests
        .iter()
        .map(|(ms, f)| Arrival { at: At::ZERO + Span::from_millis(*ms), function: FunctionId(*f) })
        .collect();
    let next = move |batch: &mut Vec<Arrival>| {
        batch.append(&mut left);
        false
    };
    let mut records = Vec::new();
    let index = Arc::new(IndexService(Arc::new(PageIndex::default())));
    let tick = |arrived| {
        at_tick(arrived);
        true
    };
    let outcome = run(&plan, index, next, |r, _| records.push(*r), tick);
    (outcome, records)
}

/// That each request ended once.
fn once(records: &[RequestRecord], requests: usize) {
    let mut ids: Vec<RequestId> = records.iter().map(|r| r.request).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..requests as u64).map(RequestId).collect::<Vec<_>>());
}

#[test]
fn every_request_is_answered_once_and_right() {
    let (a, b) = (Agent::start(0, Some("s")), Agent::start(1, Some("s")));
    let requests: Vec<(u64, u32)> = (0..100).map(|i| (i * 10, 0)).collect();
    let (outcome, records) = go(&addresses(&[&a, &b]), Some("s"), &requests, |_| {});
    once(&records, 100);
    assert!(records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
    let outcome = outcome.unwrap();
    assert_eq!(a.runs.load(Ordering::Relaxed) + b.runs.load(Ordering::Relaxed), 100);
    assert!(outcome.starts.iter().any(|s| s.kind == "cold") && outcome.starts.iter().any(|s| s.kind == "warm"));
}

#[test]
fn nothing_is_left_of_a_run_when_the_next_one_begins() {
    let a = Agent::start(0, None);
    for _ in 0..3 {
        go(&addresses(&[&a]), None, &[(0, 0)], |_| {}).0.unwrap();
    }
    assert_eq!(a.holders.load(Ordering::Relaxed), 2);
}

#[test]
fn functions_that_never_answer_or_answer_wrongly_are_reported_failed() {
    let a = Agent::start(0, None);
    let requests = [(0, 0), (10, 2), (20, 1), (40, 0), (50, 3)];
    let (outcome, mut records) = go(&addresses(&[&a]), None, &requests, |_| {});
    once(&records, 5);
    records.sort_by_key(|r| r.request);
    let ended: Vec<Ended> = records.iter().map(|r| r.outcome).collect();
    assert_eq!(ended, [Ended::Answered, Ended::Failed, Ended::Failed, Ended::Answered, Ended::Failed]);
    let notes = outcome.unwrap().notes.join("\n");
    assert!(notes.contains("3 answers were wrong") && notes.contains("not done by its deadline"), "{notes}");
    assert!(notes.contains("at most 262144 are passed on"), "{notes}");
}

#[test]
fn the_requests_of_an_agent_that_dies_are_answered_elsewhere_and_it_may_come_back() {
    let (a, b) = (Agent::start(0, None), Agent::start(1, None));
    let nodes = addresses(&[&a, &b]);
    let requests: Vec<(u64, u32)> = (0..250).map(|i| (i * 10, 0)).collect();
    let (mut dying, mut back) = (Some(b), None);
    let (outcome, records) = go(&nodes, None, &requests, |arrived| {
        if arrived > 60 && dying.take().is_some() {
            let again = Agent::start(1, None);
            nodes[1].send_replace(again.address.to_string());
            back = Some(again);
        }
    });
    once(&records, 250);
    assert!(records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
    let notes = outcome.unwrap().notes.join("\n");
    assert!(notes.contains("agent n1 was lost") && notes.contains("agent n1 was there again"), "{notes}");
}

#[test]
fn an_agent_that_starts_late_is_used_when_it_is_there() {
    let a = Agent::start(0, None);
    let nodes = vec![watch::channel(a.address.to_string()).0, watch::channel(String::new()).0];
    let requests: Vec<(u64, u32)> = (0..150).map(|i| (i * 10, 0)).collect();
    let mut late = None;
    let (outcome, records) = go(&nodes, None, &requests, |arrived| {
        if arrived > 30 && late.is_none() {
            let agent = Agent::start(1, None);
            nodes[1].send_replace(agent.address.to_string());
            late = Some(agent);
        }
    });
    once(&records, 150);
    let notes = outcome.unwrap().notes.join("\n");
    assert!(notes.contains("n1 was not there at the start") && notes.contains("n1 was there again"), "{notes}");
}

#[test]
fn bases_that_an_agent_cannot_read_turn_its_sandboxes_cold_at_once_and_it_goes_on() {
    let bases: Arc<Mutex<Vec<SandboxId>>> = Arc::default();
    let agents = [0, 1].map(|n| Agent::sharing(AgentConfig::new(n, None), bases.clone()));
    // It reduces all that it can.
    let reduces = [("policy", "medes"), ("constraint", "memory"), ("memory_share", "0.01"), ("idletime", "0.3")];
    // The first becomes a base, the next stand beside it and are reduced.
    let requests: Vec<(u64, u32)> = [(0, 1), (1500, 4), (8000, 4)].map(|(at, n)| vec![(at, 0); n]).concat();
    let (mut told, mut cold) = (None, false);
    let (outcome, records) = go_under(&reduces, &addresses(&[&agents[0], &agents[1]]), None, &requests, |arrived| {
        let first = bases.lock().unwrap().first().copied();
        let there = |agent: &Agent| agent.there.lock().unwrap().len();
        match (first, told) {
            (Some(base), None) if arrived == 5 => {
                let owner = usize::from(agents[1].there.lock().unwrap().contains_key(&base));
                let reader = &agents[1 - owner];
                let reduced: u32 = agents.iter().map(|a| a.reduced.load(Ordering::Relaxed)).sum();
                if reduced as usize == there(&agents[0]) + there(&agents[1]) - 1 && there(reader) > 0 {
                    told = Some((owner, there(&agents[owner])));
                    let lost = PeerEvent::Lost(NodeId(owner as u32), "no page comes".into());
                    reader.peers.lock().unwrap().as_ref().unwrap().send(lost).unwrap();
                }
            }
            (_, Some((owner, stay))) if !cold && arrived == 5 && there(&agents[1 - owner]) == 0 => {
                // What the base's own node has is there still.
                cold = there(&agents[owner]) == stay;
                let back = PeerEvent::Back(NodeId(owner as u32));
                agents[1 - owner].peers.lock().unwrap().as_ref().unwrap().send(back).unwrap();
            }
            _ => {}
        }
    });
    once(&records, 9);
    assert!(records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
    let notes = outcome.unwrap().notes.join("\n");
    assert!(cold, "{told:?} {notes}");
    assert!(notes.contains("no page comes") && notes.contains("can read from agent"), "{notes}");
    assert!(!notes.contains("was lost"), "{notes}");
}

#[test]
fn agents_read_over_verbs_where_all_of_them_can_and_the_run_says_why_not() {
    let with = |n, verbs| Agent::with(AgentConfig { verbs, ..AgentConfig::new(n, None) });
    let cases = [
        (Ok(()), TransportKind::Verbs, "over verbs: all agents have RDMA devices"),
        (Err("no device".to_owned()), TransportKind::Tcp, "not over verbs: agent n1 has none (no device)"),
    ];
    for (second, transport, note) in cases {
        let agents = [with(0, Ok(())), with(1, second)];
        let (outcome, records) = go(&addresses(&[&agents[0], &agents[1]]), None, &[(0, 0)], |_| {});
        once(&records, 1);
        assert_eq!(agents.each_ref().map(|a| *a.transport.lock().unwrap()), [Some(transport); 2]);
        let notes = outcome.unwrap().notes.join("\n");
        assert!(notes.contains(note), "{notes}");
    }
}

#[test]
fn another_secret_or_nobody_is_said_with_the_mend() {
    let a = Agent::start(0, Some("theirs"));
    let (outcome, _) = go(&addresses(&[&a]), Some("ours"), &[(0, 0)], |_| {});
    assert!(outcome.unwrap_err().to_string().contains("MEDES_SECRET"));
    let (outcome, _) = go(&[watch::channel(String::new()).0], None, &[(0, 0)], |_| {});
    assert!(matches!(outcome, Err(RunError::NoAgent { .. })));
}

#[test]
fn another_version_is_refused_and_the_same_order_is_done_once() {
    let a = Agent::start(0, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", a.address)).unwrap();
        let mut client = AgentClient::new(endpoint.connect().await.unwrap());
        let hello = Hello { version: PROTOCOL + 1, node: 0, epoch: 1, nonce: vec![1] };
        let refused = client.hello(hello.clone()).await.unwrap_err();
        assert!(refused.message().contains("same build"), "{refused}");
        client.hello(Hello { version: PROTOCOL, ..hello }).await.unwrap();
        let order = |id, kind: OrderKind, arguments: &str| Order {
            id,
            kind: kind.into(),
            sandbox: 1,
            function: "vanilla".into(),
            arguments: arguments.into(),
            start_ms: 1000,
            run_ms: 1000,
            ..Order::default()
        };
        let settings = serde_json::to_string(&Settings::default()).unwrap();
        let (spawn, again) = (order(1, OrderKind::Spawn, "{}"), order(1, OrderKind::Spawn, "{}"));
        let orders = vec![order(0, OrderKind::Begin, &settings), spawn, again];
        let stream = tokio_stream::iter(orders).chain(tokio_stream::pending());
        let mut said = client.work(stream).await.unwrap().into_inner();
        let mut finished = false;
        while !finished {
            let said = said.next().await.unwrap().unwrap();
            finished = said.step.is_some_and(|s| s.kind() == StepKind::Finished);
        }
    });
    assert_eq!(a.runs.load(Ordering::Relaxed), 1);
}

/// What stands between controller and agent, and can break all that goes through it.
struct Wire {
    address: SocketAddr,
    through: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(agent: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, through) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = through.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(agent) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().unwrap().extend([near, far]);
            }
        });
        Self { address, through }
    }

    fn cut(&self) {
        for stream in self.through.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn over_a_wire_that_breaks_every_order_is_done_once() {
    let a = Agent::start(0, None);
    let wire = Wire::to(a.address);
    let nodes = [watch::channel(wire.address.to_string()).0];
    let requests: Vec<(u64, u32)> = (0..300).map(|i| (i * 10, 0)).collect();
    let mut cuts = 0;
    let (outcome, records) = go(&nodes, None, &requests, |arrived| {
        if arrived > 60 * (cuts + 1) && cuts < 3 {
            wire.cut();
            cuts += 1;
        }
    });
    once(&records, 300);
    assert!(records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
    let notes = outcome.unwrap().notes.join("\n");
    assert!(cuts == 3 && !notes.contains("was lost"), "{cuts} {notes}");
    assert_eq!(a.runs.load(Ordering::Relaxed), 300);
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn greeted(agent: &Agent) -> AgentClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.address)).unwrap();
    let mut client = AgentClient::new(endpoint.connect().await.unwrap());
    client.hello(Hello { version: PROTOCOL, node: 0, epoch: 1, nonce: vec![1] }).await.unwrap();
    client
}

fn begin_and(order: Order) -> Vec<Order> {
    let settings = serde_json::to_string(&Settings::default()).unwrap();
    vec![Order { kind: OrderKind::Begin.into(), arguments: settings, ..Order::default() }, order]
}

fn spawn_order(arguments: String) -> Order {
    let kind = OrderKind::Spawn.into();
    Order {
        id: 1,
        kind,
        sandbox: 1,
        function: "vanilla".into(),
        arguments,
        start_ms: 1000,
        run_ms: 1000,
        ..Order::default()
    }
}

#[test]
fn an_agent_left_alone_purges_all_it_has_and_serves_the_next_controller() {
    let a = Agent::with(AgentConfig { lease: Duration::from_millis(600), ..AgentConfig::new(0, None) });
    block_on(async {
        let mut client = greeted(&a).await;
        let orders = tokio_stream::iter(begin_and(spawn_order(String::new()))).chain(tokio_stream::pending());
        let mut said = client.work(orders).await.unwrap().into_inner();
        while said.next().await.unwrap().unwrap().step.is_none_or(|s| s.kind() != StepKind::Started) {}
        // As long as there is a controller, the lease does not run out.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(a.there.lock().unwrap().len(), 1);
    });
    let until = Instant::now() + Duration::from_secs(30);
    while !a.there.lock().unwrap().is_empty() {
        assert!(Instant::now() < until, "nothing is purged");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (outcome, records) = go(&addresses(&[&a]), None, &[(0, 0), (10, 0)], |_| {});
    once(&records, 2);
    assert!(outcome.is_ok() && records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_agent_goes_on() {
    let a = Agent::start(0, None);
    block_on(async {
        let mut client = greeted(&a).await;
        let orders = begin_and(spawn_order("x".repeat(MAX_MESSAGE)));
        let said = client.work(tokio_stream::iter(orders).chain(tokio_stream::pending())).await;
        let Ok(said) = said else { return };
        let mut said = said.into_inner();
        // It may say its memory for a while; of the order it says nothing.
        let heard = tokio::time::timeout(Duration::from_secs(2), async {
            while let Some(Ok(said)) = said.next().await {
                assert!(said.step.is_none(), "{said:?}");
            }
        });
        let _ = heard.await;
    });
    assert_eq!(a.runs.load(Ordering::Relaxed), 0);
    let (_, records) = go(&addresses(&[&a]), None, &[(0, 0)], |_| {});
    assert!(records.iter().all(|r| r.outcome == Ended::Answered), "{records:?}");
}
