//! Figures of made-up rows: what they describe, and that their files are what they claim to be.

use medes_plots::figure::{Figure, Scale, Shape};
use medes_plots::plan::plan;
use medes_plots::{CellData, draw_all, render};

mod made_up;

const THREE: [&str; 3] = ["medes", "adaptive", "fixed"];

fn named<'a>(figures: &'a [Figure], name: &str) -> &'a Figure {
    let names: Vec<_> = figures.iter().map(|f| f.name.as_str()).collect();
    figures.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no figure {name} in {names:?}"))
}

fn labels(figure: &Figure) -> Vec<&str> {
    figure.series.iter().map(|s| s.label.as_str()).collect()
}

#[test]
fn an_experiment_over_pools_gives_these_figures() {
    let figures = plan(&made_up::cells(&THREE, &[20.0, 40.0], 3)).figures;
    let outlines: Vec<String> = figures.iter().map(Figure::outline).collect();
    assert_eq!(
        outlines,
        [
            "cold_by_pool | pool size (GB) [linear at [20.0, 40.0]] | cold starts [linear from 0] | fixed: line 2, adaptive: line 2, medes: line 2",
            "cold_per_function_20gb | cold starts [linear from 0] | function [10 names] | fixed: bars 10, adaptive: bars 10, medes: bars 10",
            "cold_per_function_40gb | cold starts [linear from 0] | function [10 names] | fixed: bars 10, adaptive: bars 10, medes: bars 10",
            "p999_per_function_20gb | 99.9th percentile end-to-end latency (ms) [linear from 0] | function [10 names] | fixed: bars 10, adaptive: bars 10, medes: bars 10",
            "p999_per_function_40gb | 99.9th percentile end-to-end latency (ms) [linear from 0] | function [10 names] | fixed: bars 10, adaptive: bars 10, medes: bars 10",
            "memory_over_time_20gb | time since the start of the run (h) [linear from 0] | memory in use (GB) [linear from 0] | fixed: band 240, adaptive: band 240, medes: band 240, memory cap: rule 20",
            "memory_over_time_40gb | time since the start of the run (h) [linear from 0] | memory in use (GB) [linear from 0] | fixed: band 240, adaptive: band 240, medes: band 240, memory cap: rule 40",
            "memory_distribution_20gb | memory in use (GB) [linear] |  [3 names] | fixed: boxes 1, adaptive: boxes 1, medes: boxes 1, memory cap: rule 20",
            "memory_distribution_40gb | memory in use (GB) [linear] |  [3 names] | fixed: boxes 1, adaptive: boxes 1, medes: boxes 1, memory cap: rule 40",
            "frontier_latency | mean memory in use (GB) [linear] | 99th percentile start latency (ms) [linear from 0] | fixed: line 2, adaptive: line 2, medes: line 2",
            "frontier_cold | mean memory in use (GB) [linear] | cold starts [linear from 0] | fixed: line 2, adaptive: line 2, medes: line 2",
        ]
    );
    let caption = &figures[0].caption;
    assert!(caption.contains("Mean of 3 seeds; whiskers: 95 % confidence interval"), "{caption}");
}

#[test]
fn the_points_are_means_of_the_rows_with_students_interval() {
    let mut cells = made_up::cells(&["fixed"], &[20.0, 40.0], 2);
    for (cell, cold) in cells.iter_mut().zip([100, 200, 7, 7]) {
        cell.summary.cold = cold;
    }
    let figures = plan(&cells).figures;
    let csv = named(&figures, "cold_by_pool").to_csv();
    assert_eq!(csv, "series,pool size (GB),cold starts,low_95,high_95\nfixed,20,150,-485.31,785.31\nfixed,40,7,7,7\n");
}

#[test]
fn swept_parameters_have_figures_of_their_own() {
    let figures = plan(&made_up::swept()).figures;
    let chunks = named(&figures, "cold_by_chunksperpage");
    assert_eq!(
        chunks.outline(),
        "cold_by_chunksperpage | chunksperpage [log at [1.0, 2.0, 5.0, 10.0, 20.0, 40.0]] | cold starts [linear from 0] | fixed: line 6, medes: line 6"
    );
    assert!(chunks.caption.contains("At dedupperbase = 40."), "{}", chunks.caption);
    assert!(named(&figures, "cold_per_function").caption.contains("At chunksperpage = 5, dedupperbase = 40."));
    named(&figures, "memory_by_dedupperbase");
    assert_eq!(
        named(&figures, "surface_chunksperpage_dedupperbase").outline(),
        "surface_chunksperpage_dedupperbase | chunksperpage [6 names] | dedupperbase [3 names] | medes: heat 18"
    );
}

#[test]
fn of_many_functions_the_most_requested_are_drawn_and_the_rest_together() {
    let names = made_up::hashes(1000);
    let cells: Vec<CellData> = THREE.iter().map(|p| made_up::cell(p, 30.0, 1, &names)).collect();
    let figures = plan(&cells).figures;
    let cold = named(&figures, "cold_per_function");
    let axis = cold.y.categories();
    assert_eq!((axis.len(), axis[0].name.as_str(), axis[10].label.as_str()), (11, names[0].as_str(), "rest (990)"));
    assert!(axis[0].label.chars().count() <= 16);
    assert!(cold.caption.contains("'rest' is the sum of the other 990"), "{}", cold.caption);
    // The bars of a policy add up to its cold starts.
    let Shape::Bars(bars) = &cold.series[2].shape else { panic!("{:?}", cold.series[2]) };
    assert_eq!(labels(cold)[2], "medes");
    assert_eq!(bars.iter().map(|b| b.y).sum::<f64>(), cells[0].summary.cold as f64);
    let slow = named(&figures, "p999_per_function");
    assert!(slow.caption.contains("the median of the percentiles of the other 990"), "{}", slow.caption);
}

#[test]
fn one_seed_is_said_and_has_no_intervals() {
    let figures = plan(&made_up::cells(&THREE, &[20.0], 1)).figures;
    let cold = named(&figures, "cold_by_pool");
    assert!(cold.caption.contains("One seed, so no interval."));
    assert_eq!(
        cold.outline(),
        "cold_by_pool | cold starts [linear from 0] |  [3 names] | fixed: bars 1, adaptive: bars 1, medes: bars 1"
    );
    for series in &cold.series {
        let Shape::Bars(bars) = &series.shape else { panic!("{series:?}") };
        assert!(bars.iter().all(|b| b.interval.is_none()));
    }
}

#[test]
fn files_are_well_formed_and_show_something() {
    let folder = tempfile::tempdir().unwrap();
    let mut cells = [made_up::cells(&THREE, &[20.0, 40.0], 2), made_up::swept()].concat();
    cells[0].functions[0].function = "<b>\"&'\u{1}".into();
    let drawn = draw_all(&cells, &folder.path().join("new/figures")).unwrap();
    assert!(drawn.len() > 15);
    for figure in &drawn {
        let svg = std::fs::read_to_string(&figure.svg_path).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{}: {e}", figure.name));
        let texts: Vec<&str> =
            document.descendants().filter(|n| n.has_tag_name("text")).filter_map(|n| n.text()).collect();
        assert!(texts.iter().any(|t| figure.title.starts_with(t.trim())), "{}: {texts:?}", figure.name);
        assert!(!texts.iter().any(|t| t.contains("no values")), "{}", figure.name);
        let (width, height, colours) = decoded(&std::fs::read(&figure.png_path).unwrap());
        assert_eq!((width, document.root_element().attribute("width")), (960, Some("480")));
        assert_eq!(document.root_element().attribute("height"), Some((height / 2).to_string().as_str()));
        assert!(colours > 30, "{} has {colours} colours", figure.name);
        let rows = csv::Reader::from_path(&figure.csv_path).unwrap().into_records().map(|r| r.unwrap().len());
        assert!(rows.count() > 0);
    }
}

/// Width, height and number of colours of a PNG.
fn decoded(file: &[u8]) -> (u32, u32, usize) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let colours: std::collections::BTreeSet<&[u8]> = pixels.chunks_exact(3).collect();
    (info.width, info.height, colours.len())
}

#[test]
fn odd_rows_give_figures_or_a_stated_reason() {
    let empty = plan(&[]);
    assert!(empty.figures.is_empty() && empty.skipped.len() == 1);
    let mut odd = vec![CellData::default()];
    odd.push(made_up::cell("medes", 20.0, 1, &[]));
    odd[1].timeline.truncate(1);
    odd.push(made_up::cell("", f64::NAN, 2, &["".into(), "".into()]));
    odd[2].summary.cold = u64::MAX;
    odd[2].summary.start_p99_ms = f64::NAN;
    odd.push(made_up::cell("fixed", 20.0, 3, &["one".into()]));
    let last = &mut odd[3];
    for f in &mut last.functions {
        (f.p999_ms, f.cold, f.requests) = (f64::NAN, 0, 0);
    }
    (last.summary.mean_memory_mb, last.summary.start_p99_ms) = (f64::INFINITY, -1.0);
    last.timeline.reverse();
    odd[3].summary.parameters.insert("codec".into(), "lz4".into());
    odd[1].summary.parameters.insert("codec".into(), "xdelta3 <&>".into());
    for cells in [&odd[..1], &odd[1..2], &odd[2..3], &odd[3..], &odd[..]] {
        let plan = plan(cells);
        for figure in &plan.figures {
            let svg = render::svg(figure).unwrap();
            roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{}: {e}", figure.name));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", figure.name);
            decoded(&render::png(figure).unwrap());
            assert!(figure.to_csv().lines().count() > 1);
        }
        assert!(plan.skipped.iter().all(|s| s.ends_with('.')), "{:?}", plan.skipped);
    }
    assert!(plan(&odd[..1]).skipped.iter().any(|s| s.contains("no rows of functions")));
    assert!(plan(&odd[..1]).skipped.iter().any(|s| s.contains("no timeline")));
}

#[test]
fn every_kind_of_series_can_be_drawn() {
    use medes_plots::figure::{Axis, BoxPoint, Piece, Point, QUARTILES, Series};
    let samples: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i * i), 1.0)).collect();
    let points: Vec<Point> =
        (0..9).map(|i| Point { x: f64::from(i), y: f64::from(i * 7 % 5), interval: Some((0.0, 4.0)) }).collect();
    let figure = |x: Axis, y: Axis, shape: Shape| Figure {
        name: "kind".into(),
        title: "A kind of series".into(),
        caption: String::new(),
        x,
        y,
        series: vec![Series::new("fixed", shape.clone()), Series::new("of no policy", shape)],
    };
    let names = || Axis::names("function", (0..9).map(|i| format!("a rather long name {i}")));
    let value = || Axis::from_zero("value", "ms");
    let box_point = BoxPoint { x: 2.0, mean: 3.0, five: [1.0, 2.0, 2.5, 4.0, 9.0], levels: QUARTILES };
    for (x, y, shape) in [
        (value(), Axis::from_zero("part of requests", ""), Shape::Cdf(samples.clone())),
        (Axis::new("latency", "ms", Scale::Log), value(), Shape::Cdf(samples)),
        (value(), value(), Shape::Step(points.clone())),
        (value(), value(), Shape::Band(points.clone())),
        (names(), value(), Shape::Bars(points.clone())),
        (value(), names(), Shape::Bars(points)),
        (names(), value(), Shape::Boxes(vec![box_point])),
        (value(), names(), Shape::Stack(vec![Piece { x: 1.0, from: 2.0, to: 40.0 }])),
    ] {
        let figure = figure(x, y, shape);
        roxmltree::Document::parse(&render::svg(&figure).unwrap()).unwrap();
        assert!(decoded(&render::png(&figure).unwrap()).2 > 30);
    }
}

#[test]
fn a_bound_without_memory_and_latency_stands_at_the_size_of_the_pool() {
    let mut cells = made_up::cells(&["oracle", "medes"], &[20.0, 40.0], 1);
    for cell in cells.iter_mut().filter(|c| c.summary.policy == "oracle") {
        (cell.functions, cell.timeline) = (Vec::new(), Vec::new());
        (cell.summary.mean_memory_mb, cell.summary.start_p99_ms) = (0.0, 0.0);
    }
    let figures = plan(&cells).figures;
    let Shape::Line(points) = &named(&figures, "frontier_cold").series[1].shape else { panic!("no line") };
    assert_eq!(points.iter().map(|p| p.x).collect::<Vec<_>>(), [20.0, 40.0]);
    assert_eq!(labels(named(&figures, "frontier_latency")), ["medes"]);
    assert_eq!(labels(named(&figures, "cold_per_function_20gb")), ["medes"]);
    assert_eq!(labels(named(&figures, "memory_distribution_20gb")), ["medes", "memory cap"]);
}
