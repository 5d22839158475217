//! Small files written by hand: what each form means, what becomes of odd rows, and what bad input says.

use std::path::Path;

use medes_engine::units::{Bytes, Duration};
use medes_traces::mapping::{Rule, Target, assign, merge};
use medes_traces::sample::{Choice, choose};
use medes_traces::{Arrival, Oddity, Spread, Trace, TraceError, TraceOptions, open, write};

fn read(kind: &str, path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    open(&format!("{kind}:{}", path.display()).parse()?, options)
}

/// Reads a file with this text.
fn text(kind: &str, text: impl AsRef<[u8]>) -> Result<Trace, TraceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    std::fs::write(&path, text).unwrap();
    read(kind, &path, &TraceOptions::default())
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn all(trace: &Trace, seed: u64) -> Vec<Arrival> {
    let (mut out, mut arrivals) = (Vec::new(), trace.arrivals(seed));
    while arrivals.next_batch(&mut out) {}
    assert!(out.is_sorted_by_key(|arrival| (arrival.at, arrival.function)));
    out
}

#[track_caller]
fn says(result: Result<Trace, TraceError>, parts: &[&str]) {
    let message = result.map(|trace| trace.source).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

const INVOCATIONS: &str = "invocations_per_function_md.anon.d01.csv";
const RUNS: &str = "function_durations_percentiles.anon.d01.csv";
const MEMORY: &str = "app_memory_percentiles.anon.d01.csv";
const RUN_HEAD: &str = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,\
percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,\
percentile_Average_100";
const MEMORY_HEAD: &str = "HashOwner,HashApp,SampleCount,AverageAllocatedMb,AverageAllocatedMb_pct1,\
AverageAllocatedMb_pct5,AverageAllocatedMb_pct25,AverageAllocatedMb_pct50,AverageAllocatedMb_pct75,\
AverageAllocatedMb_pct95,AverageAllocatedMb_pct99,AverageAllocatedMb_pct100";

/// Every odd row of the join, by hand: counts, defaults and the report.
#[test]
fn the_join_of_the_three_files() {
    let invocations = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n\
        o,a,f,http,1,0,2\n\
        o,a,f,http,1,0,2\n\
        o,a,g,timer,0,3,0\n\
        o,a,g,queue,1,0,0\n\
        p,b,f,blob,0,0,4\n\
        p,c,idle,http,0,0,0\n\
        p,d,none,http,1,1,1\n";
    let runs = format!(
        "{RUN_HEAD}\n\
        o,a,f,10,3,10.0,10.0,10,10,10,10,10,10,10\n\
        o,a,f,99,2,10.0,99.0,10,10,10,10,10,10,10\n\
        o,a,g,20,9,20.0,20.0,20,20,20,20,20,20,20\n\
        p,b,f,0,4,0.0,0.0,0,0,0,0,0,0,0\n\
        q,x,gone,1,1,1.0,1.0,1,1,1,1,1,1,1\n"
    );
    let memory = format!(
        "{MEMORY_HEAD}\n\
        o,a,5,100,90,91,95,101,105,110,111,120\n\
        o,a,50,200,90,91,95,102,105,110,111,120\n\
        p,b,5,-3,0,0,0,0,0,0,0,0\n\
        q,x,1,1,1,1,1,1,1,1,1,1\n"
    );
    let folder = folder(&[(INVOCATIONS, invocations), (RUNS, &runs), (MEMORY, &memory)]);
    let trace = read("azure2019", folder.path(), &TraceOptions::default()).unwrap();
    println!("{}", trace.report);
    let named: Vec<_> = trace.functions.iter().map(|f| (f.label(), f.requests, f.trigger.name())).collect();
    let expected = [("o/a/f", 3, "http"), ("o/a/g", 4, "timer"), ("p/b/f", 4, "others"), ("p/d/none", 3, "http")];
    assert_eq!(named.iter().map(|(a, b, c)| (a.as_str(), *b, *c)).collect::<Vec<_>>(), expected);
    let runs: Vec<_> = trace.functions.iter().map(|f| f.mean_run.map(|run| run.as_micros())).collect();
    assert_eq!(runs, [Some(10_000), Some(20_000), Some(500), None]);
    let memory: Vec<_> = trace.functions.iter().map(|f| f.memory).collect();
    assert_eq!(memory, [200.0, 200.0, 143.0, 143.0].map(|mb| Some(Bytes::from_mb(mb))));
    for (oddity, count) in [
        (Oddity::RepeatedInvocations, 1),
        (Oddity::SplitInvocations, 1),
        (Oddity::UnknownTrigger, 1),
        (Oddity::NotInvoked, 1),
        (Oddity::RepeatedDurations, 1),
        (Oddity::DurationsWithoutInvocations, 1),
        (Oddity::CountMismatch, 1),
        (Oddity::ZeroAverage, 1),
        (Oddity::NoDurations, 1),
        (Oddity::RepeatedMemory, 1),
        (Oddity::MemoryWithoutInvocations, 1),
        (Oddity::MemoryNotPositive, 1),
        (Oddity::NoMemory, 1),
    ] {
        assert_eq!(trace.report.count(oddity), count, "{oddity:?}");
    }
    let json = serde_json::to_value(&trace.report).unwrap();
    let first = &json["oddities"][0];
    assert_eq!((first["oddity"].as_str(), first["count"].as_u64()), (Some("repeated-invocations"), Some(1)));
    assert!(first["first"].as_str().unwrap().ends_with("d01.csv, line 3"), "{first}");
    assert!(trace.report.to_string().lines().skip(3).all(|line| line.chars().count() <= 80));

    let options = TraceOptions { memory_figure: medes_traces::MemoryFigure::Median, ..TraceOptions::default() };
    let trace = read("azure2019", folder.path(), &options).unwrap();
    assert_eq!(trace.functions[0].memory, Some(Bytes::from_mb(102.0)));
    let arrivals = all(&trace, 3);
    assert_eq!(arrivals.len(), 14);
    assert!(arrivals.iter().all(|a| a.function.0 != 3 || a.run == Duration::from_millis(950)));
}

fn day(number: u32, rows: &str) -> (String, String) {
    let columns: Vec<String> = (1..=1440).map(|minute| minute.to_string()).collect();
    let mut text = format!("HashOwner,HashApp,HashFunction,Trigger,{}\n", columns.join(","));
    for row in rows.split_whitespace() {
        let (name, minute) = row.split_once('@').unwrap();
        let minute: usize = minute.parse().unwrap();
        let cells: Vec<&str> = (1..=1440).map(|m| if m == minute { "1" } else { "0" }).collect();
        text += &format!("o,a,{name},http,{}\n", cells.join(","));
    }
    (format!("invocations_per_function_md.anon.d{number:02}.csv"), text)
}

/// Three days, one without memory or durations: end to end, a window over the border, the nearest day's rows.
#[test]
fn days_lie_end_to_end() {
    let days = [day(11, "f@1 g@1440"), day(12, "f@2"), day(13, "h@1 g@3")];
    let run = |ms: u32| format!("{RUN_HEAD}\no,a,g,{ms},1,{ms},{ms},{0}\n", vec![ms.to_string(); 7].join(","));
    let (run11, run12) = (run(11), run(12));
    let memory = format!("{MEMORY_HEAD}\no,a,5,70,1,1,1,1,1,1,1,1\n");
    let mut files: Vec<(&str, &str)> = days.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    files.push(("function_durations_percentiles.anon.d11.csv", &run11));
    files.push(("function_durations_percentiles.anon.d12.csv", &run12));
    files.push(("app_memory_percentiles.anon.d12.csv", &memory));
    let folder = folder(&files);

    let trace = read("azure2019", folder.path(), &TraceOptions::default()).unwrap();
    println!("{}", trace.report);
    let minutes: Vec<_> = all(&trace, 1).iter().map(|a| (a.at.minute(), a.function.0, a.run.as_millis_f64())).collect();
    assert_eq!(minutes, [(0, 0, 950.0), (1439, 1, 11.0), (1441, 0, 950.0), (2880, 2, 950.0), (2882, 1, 12.0)]);
    assert_eq!(trace.report.count(Oddity::DurationsOfAnotherDay), 1);
    let notes = trace.report.notes.join("\n");
    for note in ["day 13: no durations file", "day 13: no memory file, day 12's is taken", "3 days, 11 to 13"] {
        assert!(notes.contains(note), "{notes}");
    }
    assert_eq!(trace.functions[0].memory, Some(Bytes::from_mb(70.0)));

    let window = |text: &str| Some(text.parse().unwrap());
    let options = TraceOptions { window: window("1440..1442"), ..TraceOptions::default() };
    let part = read("azure2019", folder.path(), &options).unwrap();
    let minutes: Vec<_> = all(&part, 1).iter().map(|a| a.at.minute()).collect();
    assert_eq!((minutes, part.minutes()), (vec![0, 2], 3));
    // The same moments as in the whole, 1439 minutes earlier.
    let of = |trace: &Trace, name: &str| {
        let id = trace.functions.iter().position(|f| f.name == name).unwrap();
        all(trace, 1).into_iter().filter(|a| a.function.index() == id).map(|a| a.at.as_micros()).collect::<Vec<_>>()
    };
    assert_eq!(of(&part, "g")[0] + 1439 * 60_000_000, of(&trace, "g")[0]);

    let options = TraceOptions { days: Some(vec![13]), ..TraceOptions::default() };
    let last = read("azure2019", folder.path(), &options).unwrap();
    assert_eq!((last.requests(), last.minutes()), (2, 1440));
    let options = TraceOptions { days: Some(vec![13, 14]), ..TraceOptions::default() };
    says(read("azure2019", folder.path(), &options), &["trace option `days`: day 14 is not in", "[11, 12, 13]"]);
    let options = TraceOptions { window: window("1..4321"), ..TraceOptions::default() };
    says(read("azure2019", folder.path(), &options), &["`window`: minute 4321", "from 1 to 4320"]);
    let options = TraceOptions { window: window("5..9"), ..TraceOptions::default() };
    says(read("azure2019", folder.path(), &options), &["nothing is invoked in the minutes 5..9"]);

    let out = tempfile::tempdir().unwrap();
    let written = write::azure2019(&trace, out.path()).unwrap();
    assert!(written.len() >= 8, "{written:?}");
    let again = read("azure2019", out.path(), &TraceOptions::default()).unwrap();
    assert_eq!(all(&again, 4), all(&trace, 4));
}

#[test]
fn bad_files_of_2019_are_named() {
    let head = "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,1,2\n";
    let bad = |name: &str, text: &str, parts: &[&str]| {
        let folder = folder(&[(INVOCATIONS, head), (name, text)]);
        says(read("azure2019", folder.path(), &TraceOptions::default()), parts);
    };
    let row = |head: &str, row: &str| format!("{head}\n{row}\n");
    bad(INVOCATIONS, "HashOwner,HashApp,HashFunction,Trigger,1441\n", &["d01.csv, line 1, column 1441", "minute 1441"]);
    bad(INVOCATIONS, "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,-4\n", &["line 2, column 1", "negative"]);
    bad(INVOCATIONS, "", &[INVOCATIONS, "the file is empty", "HashOwner,HashApp"]);
    bad(INVOCATIONS, "HashOwner,HashApp,HashFunction,Trigger,1\n", &[INVOCATIONS, "a header and no row"]);
    bad(RUNS, "", &[RUNS, "the file is empty"]);
    bad(RUNS, RUN_HEAD, &[RUNS, "a header and no row"]);
    bad(RUNS, &RUN_HEAD.replace(",Count", ""), &[RUNS, "line 1", "column `Count` is missing"]);
    bad(RUNS, &RUN_HEAD.replace(",Count", ",Cuont"), &["line 1", "unknown column `Cuont`"]);
    bad(RUNS, &row(RUN_HEAD, "o,a,f,1,2,3,4,5,6"), &["line 2: 9 columns where the header has 14", "cut off"]);
    bad(RUNS, &row(RUN_HEAD, "o,a,f,x,2,3,4,5,6,7,8,9,10,11"), &["line 2, column Average: `x` is not a number"]);
    bad(RUNS, &row(RUN_HEAD, "o,a,f,,2,3,4,5,6,7,8,9,10,11"), &["line 2, column Average: the cell is empty"]);
    bad(RUNS, &row(RUN_HEAD, "o,a,f,NaN,2,3,4,5,6,7,8,9,10,11"), &["column Average: `NaN` is not a number"]);
    bad(RUNS, &row(RUN_HEAD, "o,a,f,1,-2,3,4,5,6,7,8,9,10,11"), &["column Count: -2 is not a whole number"]);
    bad(MEMORY, &row(MEMORY_HEAD, "o,a,1,2,3,4,5,6,7,8,9,ten"), &[MEMORY, "line 2, column AverageAllocatedMb_pct100"]);
    let empty = tempfile::tempdir().unwrap();
    says(read("azure2019", empty.path(), &TraceOptions::default()), &["no file named invocations_per_function"]);
    says(read("invitro", empty.path(), &TraceOptions::default()), &["no file named invocations.csv"]);
    says(read("azure2019", &empty.path().join("no"), &TraceOptions::default()), &["cannot be read"]);
}

#[test]
fn azure_2021() {
    let trace = text(
        "azure2021",
        "app,func,end_timestamp,duration\na,f,2.5,0.5\nb,f,1.25,1.0\na,f,0.1,0.3\na,f,7,0\na,f,9,-1\n",
    );
    let trace = trace.unwrap();
    println!("{}", trace.report);
    let seen: Vec<_> = all(&trace, 0).iter().map(|a| (a.at.as_micros(), a.function.0, a.run.as_micros())).collect();
    let expected =
        [(0, 0, 300_000), (250_000, 1, 1_000_000), (2_000_000, 0, 500_000), (7_000_000, 0, 500), (9_000_000, 0, 500)];
    assert_eq!(seen, expected);
    for oddity in [Oddity::ArrivalBeforeZero, Oddity::ZeroDuration, Oddity::NegativeEventDuration] {
        assert_eq!(trace.report.count(oddity), 1, "{oddity:?}");
    }
    assert_eq!(trace.report.count(Oddity::OutOfOrder), 2);
    says(text("azure2021", "app,func,end_timestamp\na,f,1\n"), &["column `duration` is missing"]);
    says(text("azure2021", "app,func,end_timestamp,duration\na,f,1,x\n"), &["line 2, column duration: `x`"]);
    says(text("azure2021", "app,func,end_timestamp,duration\na,f,1\n"), &["line 2: 3 columns"]);
    says(text("azure2021", "app,func,end_timestamp,duration\n"), &["no request in it"]);
    says(text("azure2021", ""), &["the file is empty"]);
    says(text("azure2021", b"app,func,end_timestamp,duration\n\xff,f,1,1\n"), &["line 2, column app", "UTF-8"]);
}

#[test]
fn request_files() {
    let trace = text("requests", "0 0 3\n1500 1 4\n1500 0 3\n61000 0 3\n-1 0 0\n99 9 9\n").unwrap();
    let seen: Vec<_> = all(&trace, 0).iter().map(|a| (a.at.as_micros(), a.function.0)).collect();
    assert_eq!(seen, [(0, 0), (1_500_000, 0), (1_500_000, 1), (61_000_000, 0)]);
    assert_eq!((trace.functions[1].app.as_str(), trace.functions[1].name.as_str()), ("1", "4"));
    assert_eq!((trace.minutes(), trace.functions[0].mean_run), (2, None));
    assert_eq!(trace.report.count(Oddity::AfterEnd), 1);
    says(text("requests", "5 0 0\n4 0 0\n"), &["trace.csv, line 2: the timestamp 4 comes after 5", "sort"]);
    says(text("requests", "5 0\n"), &["line 1: 2 columns where there should be 3"]);
    says(text("requests", "5 0 0\nx 0 0\n"), &["line 2, column timestamp: `x` is not a whole number"]);
    says(text("requests", "-2 0 0\n"), &["`-2` is negative"]);
    says(text("requests", ""), &["the file is empty"]);
    says(text("requests", "-1\n"), &["no request in it"]);
    says(text("requests", b"1 \xff 0\n"), &["line 1", "UTF-8"]);
}

#[test]
fn plain_csv() {
    let trace = text("csv", "duration,time,function,memory\n20,1.5,f,30\n,0.5,g,\n10,0.25,f,40\n0,2,f,\n").unwrap();
    let seen: Vec<_> = all(&trace, 0).iter().map(|a| (a.at.as_micros(), a.function.0, a.run.as_micros())).collect();
    assert_eq!(seen, [(250_000, 0, 10_000), (500_000, 1, 950_000), (1_500_000, 0, 20_000), (2_000_000, 0, 500)]);
    let f = |i: usize| (trace.functions[i].memory, trace.functions[i].mean_run.is_some());
    assert_eq!((f(0), f(1)), ((Some(Bytes::from_mb(40.0)), true), (None, false)));
    assert_eq!(text("csv", "time,function\r\n3,f\r\n").unwrap().requests(), 1);
    assert_eq!(text("csv", "\u{feff}time,function\n3,\"f,g\"\n").unwrap().functions[0].name, "f,g");
    says(text("csv", "time,name\n1,f\n"), &["line 1: unknown column `name`", "time,function"]);
    says(text("csv", "time,time\n1,1\n"), &["line 1: column `time` appears twice"]);
    says(text("csv", "time,function\n1\n"), &["line 2: 1 columns where the header has 2"]);
    says(text("csv", "time,function\nnoon,f\n"), &["line 2, column time: `noon` is not a number"]);
    says(text("csv", "time,function\n1,\n"), &["line 2, column function: the cell is empty"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, "time,function\n1,f\n70,g\n130,f\n").unwrap();
    let options = TraceOptions { window: Some("2..3".parse().unwrap()), ..TraceOptions::default() };
    let part = read("csv", &path, &options).unwrap();
    let seen: Vec<_> = all(&part, 0).iter().map(|a| (a.at.as_micros(), a.function.0)).collect();
    assert_eq!((seen, part.minutes()), (vec![(10_000_000, 1), (70_000_000, 0)], 2));
    assert_eq!(part.report.count(Oddity::OutsideWindow), 1);
}

#[test]
fn specs_and_options() {
    for (spec, part) in [
        ("azure2020:x", "no kind of trace is called `azure2020`"),
        ("csv", "the path is missing"),
        ("csv:", "the path is missing"),
        ("azure-like:x", "has no path"),
    ] {
        let message = spec.parse::<medes_traces::TraceSpec>().unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("azure2019, azure2021, invitro"), "{message}");
    }
    let spec: medes_traces::TraceSpec = "csv:C:/a:b".parse().unwrap();
    assert_eq!((spec.path.to_str(), spec.to_string().as_str()), (Some("C:/a:b"), "csv:C:/a:b"));
    let options: TraceOptions = toml::from_str("window = \"3..9\"\narrivals_in_minute = \"even\"").unwrap();
    assert_eq!((options.window.unwrap().minutes(), options.arrivals_in_minute), (7, Spread::Even));
    let back: TraceOptions = toml::from_str(&toml::to_string(&options).unwrap()).unwrap();
    assert_eq!(back, options);
    for (text, part) in [
        ("wnidow = 1", "unknown field `wnidow`"),
        ("window = \"9..3\"", "holds no minute"),
        ("window = \"0..3\"", "holds no minute"),
        ("window = \"a..3\"", "`a` in `a..3` is not a minute"),
        ("arrivals_in_minute = \"odd\"", "uniform"),
    ] {
        let message = toml::from_str::<TraceOptions>(text).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let bad = TraceOptions { zero_run_ms: f64::NAN, ..TraceOptions::default() };
    says(open(&"azure-like".parse().unwrap(), &bad), &["`zero_run_ms`: NaN is not a number"]);
    let bad = TraceOptions { days: Some(vec![1]), ..TraceOptions::default() };
    says(open(&"azure-like".parse().unwrap(), &bad), &["`days`: azure-like has no files by day"]);
}

fn generated(options: TraceOptions) -> Trace {
    open(&"azure-like".parse().unwrap(), &options).unwrap()
}

#[test]
fn generator_writer_and_parser_check_each_other() {
    for minutes in [120, 1440, 2000] {
        let options = TraceOptions { functions: 150, minutes, ..TraceOptions::default() };
        let trace = generated(options.clone());
        assert!(
            trace.report.oddities.keys().all(|&odd| odd == Oddity::ZeroAverage
                || odd == Oddity::ZeroMinimum
                || odd == Oddity::AverageAgainstPercentiles),
            "{}",
            trace.report
        );
        let folder = tempfile::tempdir().unwrap();
        write::azure2019(&trace, folder.path()).unwrap();
        let options =
            TraceOptions { window: Some(format!("1..{minutes}").parse().unwrap()), ..TraceOptions::default() };
        let again = read("azure2019", folder.path(), &options).unwrap();
        let by_name = |trace: &Trace| {
            let mut functions = trace.functions.clone();
            functions.sort_by_key(|f| f.label());
            // Every day's file has the app's row: the samples of several days are added.
            functions.iter_mut().flat_map(|f| &mut f.memory_row).for_each(|row| row.samples = 0);
            functions
        };
        assert!(by_name(&again) == by_name(&trace), "functions differ");
        assert_eq!(again.length, trace.length);
        let named = |trace: &Trace| {
            let mut all: Vec<_> =
                all(trace, 8).iter().map(|a| (a.at, trace.functions[a.function.index()].label(), a.run)).collect();
            all.sort();
            all
        };
        assert!(named(&again) == named(&trace), "arrivals differ");
        if minutes == 120 {
            write::invitro(&trace, folder.path()).unwrap();
            let invitro = read("invitro", folder.path(), &TraceOptions::default()).unwrap();
            assert_eq!(all(&invitro, 8), all(&trace, 8));
        } else if minutes == 2000 {
            let error = write::invitro(&trace, folder.path()).unwrap_err().to_string();
            assert!(error.contains("holds one day, and this trace has 2"), "{error}");
        }
    }
}

#[test]
fn events_written_are_the_events_read() {
    let trace = generated(TraceOptions { functions: 40, minutes: 30, ..TraceOptions::default() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    write::csv(&trace, &path, 6).unwrap();
    let again = read("csv", &path, &TraceOptions::default()).unwrap();
    let named = |trace: &Trace| {
        let mut all: Vec<_> =
            all(trace, 6).iter().map(|a| (a.at, trace.functions[a.function.index()].name.clone(), a.run)).collect();
        all.sort();
        all
    };
    assert_eq!(named(&again), named(&trace));
    write::requests(&trace, &path, 6).unwrap();
    let requests = read("requests", &path, &TraceOptions::default()).unwrap();
    assert_eq!(requests.requests(), trace.requests());
    // Events by minute in the schema of 2019.
    write::azure2019(&again, folder.path()).unwrap();
    let counts = read("azure2019", folder.path(), &TraceOptions::default()).unwrap();
    assert_eq!(counts.requests(), trace.requests());
    let sum = |trace: &Trace| {
        trace.functions.iter().map(|f| f.requests as f64 * f.mean_run.unwrap().as_secs_f64()).sum::<f64>()
    };
    assert!((sum(&counts) / sum(&again) - 1.0).abs() < 0.001);
}

#[test]
fn spreads() {
    let make = |arrivals_in_minute, even_timers| {
        generated(TraceOptions {
            functions: 60,
            minutes: 60,
            arrivals_in_minute,
            even_timers,
            ..TraceOptions::default()
        })
    };
    let uniform = make(Spread::Uniform, false);
    assert_eq!(all(&uniform, 1), all(&uniform, 1));
    assert_ne!(all(&uniform, 1), all(&uniform, 2));
    // Uniform: the mean offset in the minute is half a minute.
    let offsets: Vec<f64> = all(&uniform, 1).iter().map(|a| (a.at.as_micros() % 60_000_000) as f64 / 6e7).collect();
    let mean = offsets.iter().sum::<f64>() / offsets.len() as f64;
    assert!((mean - 0.5).abs() < 0.02, "{mean}");
    // Even: all gaps of a function within a minute are alike.
    let even = all(&make(Spread::Even, false), 1);
    let busiest = |arrivals: &[Arrival]| {
        let f = (0..60).max_by_key(|&f| arrivals.iter().filter(|a| a.function.0 == f).count()).unwrap();
        arrivals
            .iter()
            .filter(|a| a.function.0 == f && a.at.minute() == 9)
            .map(|a| a.at.as_micros())
            .collect::<Vec<_>>()
    };
    let times = busiest(&even);
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 3 && gaps.iter().max().unwrap() - gaps.iter().min().unwrap() <= 1, "{gaps:?}");
    // Poisson: the number varies, its mean stays.
    let poisson = make(Spread::Poisson, true);
    let counts: Vec<f64> = (0..50).map(|seed| all(&poisson, seed).len() as f64).collect();
    let mean = counts.iter().sum::<f64>() / 50.0;
    assert!((mean / poisson.requests() as f64 - 1.0).abs() < 0.01, "{mean}");
    assert!(counts.iter().any(|&n| n != counts[0]));
    // Timers by the clock: one a minute is one a minute exactly.
    let timers = make(Spread::Uniform, true);
    let f = timers.functions.iter().position(|f| f.trigger.name() == "timer" && f.requests == 60).unwrap();
    let times: Vec<u64> =
        all(&timers, 1).iter().filter(|a| a.function.index() == f).map(|a| a.at.as_micros()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 60_000_000));
}

#[test]
fn a_sample_has_the_arrivals_of_the_whole() {
    let trace = generated(TraceOptions { functions: 300, minutes: 40, ..TraceOptions::default() });
    for choice in [Choice::Stratified, Choice::Uniform] {
        let chosen = choose(&trace, 30, choice, 5).unwrap();
        assert_eq!(chosen, choose(&trace, 30, choice, 5).unwrap());
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.len() == 30);
        let part = trace.only(&chosen);
        let expected: Vec<_> = all(&trace, 9)
            .into_iter()
            .filter_map(|a| Some((a.at, chosen.iter().position(|&id| id == a.function)? as u32, a.run)))
            .collect();
        let seen: Vec<_> = all(&part, 9).iter().map(|a| (a.at, a.function.0, a.run)).collect();
        assert_eq!(seen, expected);
    }
    // One from each stratum of ten.
    let chosen = choose(&trace, 30, Choice::Stratified, 5).unwrap();
    let mut order: Vec<u32> = (0..300).collect();
    order.sort_by_key(|&id| (trace.functions[id as usize].requests, id));
    let mut strata: Vec<usize> = chosen.iter().map(|id| order.iter().position(|&o| o == id.0).unwrap() / 10).collect();
    strata.sort_unstable();
    assert_eq!(strata, (0..30).collect::<Vec<_>>());
    for n in [0, 301] {
        let error = choose(&trace, n, Choice::Uniform, 1).unwrap_err().to_string();
        assert!(error.contains("give a number from 1 to 300"), "{error}");
    }
}

#[test]
fn mappings() {
    let trace = generated(TraceOptions { functions: 50, minutes: 20, ..TraceOptions::default() });
    let targets: Vec<Target> = [("long", 3000, 87.5), ("short", 150, 17.0), ("middle", 400, 22.3)]
        .map(|(name, ms, mb)| Target {
            name: name.into(),
            run: Duration::from_millis(ms),
            percentiles_ms: None,
            memory: Bytes::from_mb(mb),
        })
        .into();
    let mut order: Vec<usize> = (0..50).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(trace.functions[i].requests));
    let by_rank = assign(&trace, &targets, Rule::Rank);
    assert_eq!((by_rank[order[0]], by_rank[order[1]], by_rank[order[3]]), (0, 1, 0));
    let by_run = assign(&trace, &targets, Rule::Duration);
    for (i, f) in trace.functions.iter().enumerate() {
        for (j, g) in trace.functions.iter().enumerate() {
            let (a, b) = (targets[by_run[i]].run, targets[by_run[j]].run);
            assert!(a >= b || f.mean_run <= g.mean_run);
        }
    }
    for rule in [Rule::Rank, Rule::Hash, Rule::Duration] {
        let chosen = assign(&trace, &targets, rule);
        let merged = merge(trace.clone(), &chosen, &targets);
        assert_eq!((merged.functions.len(), merged.requests()), (3, trace.requests()));
        let times = |trace: &Trace| all(trace, 3).iter().map(|a| a.at).collect::<Vec<_>>();
        assert_eq!(times(&merged), times(&trace));
        assert!(all(&merged, 3).iter().all(|a| a.run == targets[a.function.index()].run));
        assert_eq!(merged.functions[2].memory, Some(Bytes::from_mb(22.3)));
        let counted: u64 = merged.functions.iter().map(|f| f.requests).sum();
        assert_eq!(counted, trace.requests());
    }
    assert!(assign(&trace, &[], Rule::Hash).is_empty());
    let events = text("csv", "time,function\n1,a\n1,b\n2,c\n").unwrap();
    let merged = merge(events, &[2, 0, 9], &targets);
    let seen: Vec<_> = all(&merged, 0).iter().map(|a| (a.at.as_micros(), a.function.0)).collect();
    assert_eq!(seen, [(1_000_000, 0), (1_000_000, 2)]);
}

#[test]
fn a_trace_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Trace>();
}

proptest::proptest! {
    /// Whatever stands in a file, reading it ends in a trace or an error.
    #[test]
    fn no_text_panics(
        rows in proptest::collection::vec("[-0-9.e,a ]{0,30}|1,f,2,3|1 2 3|a,f,5,1", 0..12),
        kind in 0usize..3,
    ) {
        let (kind, head) = [("csv", "time,function,duration,memory\n"), ("requests", ""),
            ("azure2021", "app,func,end_timestamp,duration\n")][kind];
        if let Ok(trace) = text(kind, format!("{head}{}", rows.join("\n"))) {
            proptest::prop_assert_eq!(all(&trace, 1).len() as u64, trace.requests());
        }
    }

    /// The same for the rows of durations and memory.
    #[test]
    fn no_row_panics(
        runs in proptest::collection::vec(-1e12f64..1e15, 11), memory in proptest::collection::vec(-1e9f64..1e15, 10),
        count in 1u32..50,
    ) {
        let cells = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let head = "HashOwner,HashApp,HashFunction,Trigger,1,2";
        let folder = folder(&[
            (INVOCATIONS, &format!("{head}\no,a,f,http,{count},0\n")),
            (RUNS, &format!("{RUN_HEAD}\no,a,f,{},3,{}\n", runs[0], cells(&runs[1..10]))),
            (MEMORY, &format!("{MEMORY_HEAD}\no,a,1,{}\n", cells(&memory[..9]))),
        ]);
        let trace = read("azure2019", folder.path(), &TraceOptions::default());
        proptest::prop_assert_eq!(all(&trace.unwrap(), 1).len() as u32, count);
    }
}

#[test]
fn times_from_the_wrong_moment_are_named() {
    says(text("csv", "time,function\n1700000000,f\n"), &["ten years from the start", "not from 1970"]);
    says(text("requests", "9223372036854775807 0 0\n"), &["ten years from the start"]);
    let rows: String = (0..3).map(|i| format!("o,a,f{i},http,999999999\n")).collect();
    let text = format!("HashOwner,HashApp,HashFunction,Trigger,1\n{rows}");
    let folder = folder(&[(INVOCATIONS, &text)]);
    says(read("azure2019", folder.path(), &TraceOptions::default()), &["minute 1 of", "has 2999999997 invocations"]);
}
