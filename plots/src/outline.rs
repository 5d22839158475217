//! A figure in a line, for people who compare and for tests: not its numbers, which its CSV has, but its structure.

use crate::figure::{Axis, Figure, Scale, Shape};

impl Figure {
    /// Name, axes with units and scales, then each series with its kind and number of points.
    pub fn outline(&self) -> String {
        let axis = |a: &Axis| {
            let scale = match &a.scale {
                Scale::Linear { zero } => format!("linear{}", if *zero { " from 0" } else { "" }),
                Scale::At { values, log } => format!("{} at {values:?}", if *log { "log" } else { "linear" }),
                Scale::Log => "log".into(),
                Scale::Category(c) => format!("{} names", c.len()),
            };
            format!("{} [{scale}]", a.text())
        };
        let series = self.series.iter().map(|s| {
            let shape = match &s.shape {
                Shape::Line(p) => format!("line {}", p.len()),
                Shape::Band(p) => format!("band {}", p.len()),
                Shape::Step(p) => format!("step {}", p.len()),
                Shape::Scatter(p) => format!("scatter {}", p.len()),
                Shape::Bars(p) => format!("bars {}", p.len()),
                Shape::Stack(p) => format!("stack {}", p.len()),
                Shape::Cdf(p) => format!("cdf {}", p.len()),
                Shape::Boxes(p) => format!("boxes {}", p.len()),
                Shape::Heat { cells, .. } => format!("heat {}", cells.len()),
                Shape::Rule(at) => format!("rule {at}"),
            };
            format!("{}: {shape}", s.label)
        });
        let series: Vec<_> = series.collect();
        format!("{} | {} | {} | {}", self.name, axis(&self.x), axis(&self.y), series.join(", "))
    }
}
