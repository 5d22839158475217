//! `medes rdma`: how fast base pages can be read; `medes measure --network`: the simulator's network from it.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use medes_engine::id::NodeId;
use medes_real::bench::{self, Bed, NetworkModel, Place, Row, Shape, TRANSPORTS};
use medes_real::cluster::ClusterFile;
use medes_real::transport::Secret;

use crate::measure_cmd::{self, FunctionArgs};
use crate::output::{Output, figures};
use crate::profiles;

#[derive(clap::Subcommand)]
pub enum RdmaCmd {
    /// Measure reads of base pages: reads and bytes a second, latencies, over each transport.
    #[command(
        after_help = "Examples:\n  medes rdma bench                                  local and tcp, this machine alone\n  \
        medes rdma bench --address 10.0.0.1               verbs too, over the RDMA device with this address\n  \
        medes rdma bench --cluster cluster.json --node 0 --peer 1     from another machine, where `medes rdma serve` runs"
    )]
    Bench(BenchArgs),
    /// Offer pages to `medes rdma bench` on other machines, until interrupted.
    Serve(ServeArgs),
}

#[derive(clap::Args)]
pub struct BenchArgs {
    /// Transports; default: all that are to be had.
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',')]
    transport: Vec<String>,
    /// Address of this machine's RDMA device, for `verbs` without a cluster file.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The cluster file: pages are read at `memory_nodes`.
    #[arg(long, value_name = "FILE", requires_all = ["node", "peer"])]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this machine is.
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// The node to read from.
    #[arg(long, value_name = "N")]
    peer: Option<u32>,
    /// Adjacent pages of a read.
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "1,4,16,64")]
    run_pages: Vec<u32>,
    /// Reads posted together.
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_value = "1,8,64")]
    depth: Vec<u32>,
    /// Pages of the region, without a cluster file.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pages: u32,
    /// Seconds for each point.
    #[arg(long, value_name = "S", default_value_t = 0.3)]
    seconds: f64,
    /// Poll for completions of `verbs`: sooner, for a core.
    #[arg(long)]
    poll: bool,
}

#[derive(clap::Args)]
pub struct ServeArgs {
    /// The cluster file: pages are offered at `memory_nodes`, what is offered is told at `grpc_nodes`.
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Which node of it this machine is.
    #[arg(long, value_name = "N")]
    node: u32,
    /// Transports.
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',', default_value = "tcp,verbs")]
    transport: Vec<String>,
    /// Pages of each region.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pages: u32,
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sudo medes measure                             the ten functions, some minutes\n  \
    sudo medes measure vanilla linalg --rounds 3 --out few.toml\n  sudo medes measure --function resize=resize.py\n  \
    medes measure --network --cluster cluster.json --node 0 --peer 1 --out here.toml\n  \
    medes run quickstart --set profile=here.toml"
)]
pub struct MeasureArgs {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Measure the network between two machines instead, and write it into a profile set.
    #[arg(long, conflicts_with_all = ["names", "function"])]
    network: bool,
    /// Profile set whose other figures are kept: a shipped one or a file.
    #[arg(long, value_name = "NAME", default_value = "measured")]
    profile: String,
    /// Where the new set goes.
    #[arg(long, value_name = "FILE", default_value = "config/here.toml")]
    out: PathBuf,
    #[command(flatten)]
    bench: BenchArgs,
}

/// Carries out `medes rdma`.
pub fn run(cmd: &RdmaCmd, out: &Output) -> anyhow::Result<()> {
    match cmd {
        RdmaCmd::Bench(args) => {
            let rows = bench(args, out)?;
            if out.json {
                out.print(serde_json::to_string_pretty(&rows)?);
            } else {
                out.print(table(&rows));
            }
            Ok(())
        }
        RdmaCmd::Serve(args) => serve(args, out),
    }
}

fn table(rows: &[Row]) -> String {
    let head =
        ["transport", "pages a read", "depth", "reads/s", "GB/s", "p50 us", "p99 us", "p99.9 us"].map(str::to_owned);
    let row = |r: &Row| {
        let Row { transport, shape, reads_per_s, gb_per_s, p50_us, p99_us, p999_us, reads: _ } = r;
        vec![
            transport.clone(),
            shape.run_pages.to_string(),
            shape.depth.to_string(),
            format!("{reads_per_s:.0}"),
            format!("{gb_per_s:.3}"),
            format!("{p50_us:.1}"),
            format!("{p99_us:.1}"),
            format!("{p999_us:.1}"),
        ]
    };
    figures(&head, &rows.iter().map(row).collect::<Vec<_>>(), &["p99.9 us"])
}

fn bench(args: &BenchArgs, out: &Output) -> anyhow::Result<Vec<Row>> {
    if args.run_pages.contains(&0) || args.depth.contains(&0) || !args.seconds.is_finite() || args.seconds < 0.0 {
        bail!("--run-pages and --depth must be at least 1, --seconds not negative");
    }
    let mut rows = Vec::new();
    for bed in beds(args, out)? {
        for depth in &args.depth {
            for run_pages in &args.run_pages {
                let shape = Shape { run_pages: *run_pages, depth: *depth };
                match bench::measure(bed.name, &*bed.reader, &bed.region, shape, Duration::from_secs_f64(args.seconds))? {
                    Some(row) => rows.push(row),
                    None => out.say(format!(
                        "{depth} reads of {run_pages} pages do not fit into a region of {}: left out; give it more --pages",
                        bed.region.pages
                    )),
                }
            }
        }
    }
    Ok(rows)
}

/// What is to be measured. Transports that were named must be there; of all, those that are.
fn beds(args: &BenchArgs, out: &Output) -> anyhow::Result<Vec<Bed>> {
    let named = !args.transport.is_empty();
    let names: Vec<String> = if named { args.transport.clone() } else { TRANSPORTS.map(str::to_owned).to_vec() };
    let mut beds = Vec::new();
    let mut keep = |bed: Result<Bed, bench::BedError>| match bed {
        Ok(bed) => {
            beds.push(bed);
            Ok(())
        }
        Err(e) if named => Err(e),
        Err(e) => {
            out.say(format!("left out: {e}"));
            Ok(())
        }
    };
    let (Some(path), Some(node), Some(peer)) = (&args.cluster, args.node, args.peer) else {
        for name in &names {
            keep(bench::here(name, args.pages, args.address, args.poll))?;
        }
        if beds.is_empty() {
            bail!("no transport is to be had here");
        }
        return Ok(beds);
    };
    let (file, place) = place(path, node, args.poll)?;
    let address = control(&file, path, peer)?;
    let offered = bench::ask(address, &place.secret).with_context(|| {
        format!("asking node {peer} at {address}: does `medes rdma serve --node {peer}` run there?")
    })?;
    for name in &names {
        let region = offered.iter().find(|(n, _)| n == name).map(|(_, r)| *r);
        keep(match region {
            Some(region) => bench::toward(&place, name, region),
            None => Err(bench::BedError { transport: name.clone(), reason: format!("node {peer} does not offer it") }),
        })?;
    }
    Ok(beds)
}

fn place(path: &Path, node: u32, polled: bool) -> anyhow::Result<(ClusterFile, Place)> {
    let file = ClusterFile::load(path)?;
    if node as usize >= file.grpc_nodes.len() {
        bail!("{} has no node {node}; it has 0 to {}", path.display(), file.grpc_nodes.len() - 1);
    }
    let mut pages = std::collections::BTreeMap::new();
    for n in 0..file.grpc_nodes.len() as u32 {
        if let Some(address) = file.pages_of(n) {
            pages.insert(NodeId(n), address.resolve(path)?);
        }
    }
    let phrase = match &file.secret_file {
        Some(secret) => {
            std::fs::read_to_string(secret).with_context(|| format!("the secret in {}", secret.display()))?
        }
        None => String::new(),
    };
    let place = Place { node: NodeId(node), pages, secret: Secret::new(phrase.trim()), polled };
    Ok((file, place))
}

fn control(file: &ClusterFile, path: &Path, node: u32) -> anyhow::Result<std::net::SocketAddr> {
    let machine = file.grpc_nodes.get(node as usize);
    let machine = machine.with_context(|| format!("{} has no node {node}", path.display()))?;
    let address = medes_real::cluster::Address { addr: machine.addr.clone(), port: machine.port };
    Ok(address.resolve(path)?)
}

fn serve(args: &ServeArgs, out: &Output) -> anyhow::Result<()> {
    let (file, place) = place(&args.cluster, args.node, false)?;
    let address = control(&file, &args.cluster, args.node)?;
    let offers = bench::offers(&place, &args.transport, args.pages)?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    out.say(format!("{} pages over {} offered at {address}; Ctrl-C ends it", args.pages, args.transport.join(" and ")));
    let regions: Vec<_> = offers.iter().map(|(name, region, _)| (name.clone(), *region)).collect();
    Ok(bench::serve(&listener, &place.secret, &regions)?)
}

/// Carries out `medes measure`.
pub fn measure(args: &MeasureArgs, out: &Output) -> anyhow::Result<()> {
    if !args.network {
        return measure_cmd::run(&args.functions, &args.profile, &args.out, out);
    }
    let (_, text) = profiles::load(&args.profile)?;
    let rows = bench(&args.bench, out)?;
    let of = |name: &str| rows.iter().filter(|r| r.transport == name).cloned().collect::<Vec<Row>>();
    let network = ["verbs", "tcp"].into_iter().map(|n| (n, of(n))).find(|(_, rows)| !rows.is_empty());
    let (name, measured) = network.context("neither verbs nor tcp was measured: there is no network to model")?;
    let model =
        bench::fit(&measured).context("no model fits: measure reads of several lengths (--run-pages 1,4,16,64)")?;
    let local_gbps = bench::fit(&of("local")).map(|m| m.network_gbps);
    let how = format!("measured: {name}, medes measure --network, version {}", crate::VERSION);
    let new = with_network(&text, &model, local_gbps, &how)?;
    std::fs::write(&args.out, new).with_context(|| format!("cannot write {}", args.out.display()))?;
    if out.json {
        out.print(serde_json::to_string_pretty(&model)?);
    } else {
        let NetworkModel { network_latency_us, network_gbps, read_post_us } = model;
        out.print(format!(
            "{name}: {network_latency_us:.2} us latency, {network_gbps:.2} Gbit/s, {read_post_us:.2} us a read"
        ));
        out.say(format!(
            "written to {}; 'medes run quickstart --set profile={}' uses it",
            args.out.display(),
            args.out.display()
        ));
    }
    Ok(())
}

/// A profile set with another network. The rest of the text stays, comments too; those of what is replaced are marked as of before.
fn with_network(text: &str, model: &NetworkModel, local_gbps: Option<f64>, how: &str) -> anyhow::Result<String> {
    let keys = [
        ("network_latency_us", Some(model.network_latency_us)),
        ("network_gbps", Some(model.network_gbps)),
        ("read_post_us", Some(model.read_post_us)),
        ("local_gbps", local_gbps),
    ];
    let mut missing: Vec<&str> = keys.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| *k).collect();
    let mut new = String::new();
    let mut section = "";
    let mut comments: Vec<&str> = Vec::new();
    for line in text.lines() {
        let bare = line.trim();
        if bare.starts_with('#') {
            comments.push(line);
            continue;
        }
        if bare.starts_with('[') {
            section = bare;
        }
        let key = bare.split('=').next().unwrap_or_default().trim();
        match keys.iter().find(|(k, v)| section == "[costs]" && *k == key && v.is_some()) {
            Some((_, Some(value))) => {
                comments.drain(..).for_each(|c| new += &format!("# Before: {}\n", c.trim_start_matches(['#', ' '])));
                // Four digits: more would claim a precision that no measurement has.
                new += &format!("{key} = {} # {how}\n", format!("{value:.3e}").parse::<f64>()?);
                missing.retain(|k| *k != key);
            }
            _ => comments.drain(..).chain([line]).for_each(|l| new += &format!("{l}\n")),
        }
    }
    comments.iter().for_each(|l| new += &format!("{l}\n"));
    if !missing.is_empty() {
        bail!("the profile set has no {} in [costs]", missing.join(", "));
    }
    let set: medes_engine::profile::ProfileSet = toml::from_str(&new)?;
    set.check()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_network_replaces_the_assumed_one_and_nothing_else() {
        let (before, text) = profiles::load("measured").unwrap();
        let model = NetworkModel { network_latency_us: 7.25, network_gbps: 91.5, read_post_us: 0.4321 };
        let new = with_network(&text, &model, None, "a test").unwrap();
        let after: medes_engine::profile::ProfileSet = toml::from_str(&new).unwrap();
        assert_eq!(after.costs.network_latency_us, 7.25);
        assert_eq!(after.costs.network_gbps, 91.5);
        assert_eq!(after.costs.read_post_us, 0.4321);
        assert_eq!(after.costs.local_gbps, before.costs.local_gbps);
        assert_eq!(after.costs.run_pages, before.costs.run_pages);
        let changed = text.lines().zip(new.lines()).filter(|(a, b)| a != b).count();
        assert_eq!((changed, text.lines().count()), (4, new.lines().count()));
        assert!(new.contains("# Before: Assumed: a 25 Gbit/s"), "{new}");
        let error = with_network("[costs]\nnetwork_gbps = 1\n", &model, None, "a test").unwrap_err().to_string();
        assert!(error.contains("network_latency_us"), "{error}");
    }
}
