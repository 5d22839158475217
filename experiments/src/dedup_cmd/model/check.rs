//! What the model predicts against what packing gives, and where they part.

use anyhow::Context;
use medes_engine::dedup::fingerprint::Sampling;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Coding, Options, Report, pack};
use medes_engine::dedup::patch::Method;
use medes_engine::profile::{Codec, FunctionProfile, Layout, PAGE_ENTRY_BYTES, ProfileSet, Query};
use medes_engine::units::{Bytes, PAGE_BYTES};
use serde::Serialize;

use super::super::Output;
use super::super::table::{Table, percent};
use super::measure::KS;
use super::{CODECS, ModelArgs};

/// Codecs whose prediction is checked.
const CHECKED: [&str; 3] = ["xdelta3", "auto", "zstd"];
/// What the prediction may be off by, of the bytes saved.
const TOLERANCE: f64 = 0.05;

/// One cell of the table.
#[derive(Serialize)]
struct Check {
    function: String,
    codec: &'static str,
    chunks: u32,
    saved_bytes: i64,
    predicted_bytes: i64,
    off: f64,
    within: bool,
    /// Where they part, class by class of pages.
    classes: Vec<Class>,
    /// For a cell outside: why.
    why: Option<String>,
}

/// Pages that become the same thing, as predicted and as packed.
#[derive(Serialize)]
struct Class {
    class: &'static str,
    predicted_pages: f64,
    packed_pages: f64,
    predicted_bytes: f64,
    packed_bytes: f64,
}

impl Class {
    /// Bytes that the prediction stores too many.
    fn gap(&self) -> f64 {
        self.predicted_bytes - self.packed_bytes
    }

    /// What was predicted and packed, of an image of `pages` pages.
    fn told(&self, pages: f64) -> String {
        let one = |n: f64, bytes: f64| format!("{} % of pages at {:.0} B", percent(n / pages), bytes / n.max(1.0));
        format!(
            "predicted {}, packed {}",
            one(self.predicted_pages, self.predicted_bytes),
            one(self.packed_pages, self.packed_bytes)
        )
    }
}

/// Both sides by class.
fn classes(layout: &Layout, report: &Report) -> Vec<Class> {
    let packed = |methods: &[Method]| {
        let parts = methods.iter().filter_map(|m| report.methods.get(m.name()));
        parts.fold((0.0, 0.0), |(n, bytes), p| (n + p.pages as f64, bytes + p.bytes as f64))
    };
    let occupied = layout.pages - layout.zero;
    let entries = occupied * PAGE_ENTRY_BYTES;
    let whole = layout.whole * PAGE_BYTES as f64;
    let alone = layout.stored - entries - whole - layout.patch_bytes;
    let (same, patched) =
        (packed(&[Method::Identical]), packed(&[Method::ByteDiff, Method::ZstdPrefix, Method::Xdelta3]));
    let (compressed, kept) = (packed(&[Method::Zstd, Method::Lz4]), packed(&[Method::Whole]));
    let all = same.0 + patched.0 + compressed.0 + kept.0;
    [
        ("equal to a base page", (layout.same_function + layout.any_function, 0.0), same),
        ("patched", (layout.patched, layout.patch_bytes), patched),
        ("compressed alone", (layout.compressed, alone), compressed),
        ("kept whole", (layout.whole, whole), kept),
        ("page tables", (occupied, entries), (all, report.table_bytes as f64)),
    ]
    .into_iter()
    .map(|(class, predicted, packed)| Class {
        class,
        predicted_pages: predicted.0,
        packed_pages: packed.0,
        predicted_bytes: predicted.1,
        packed_bytes: packed.1,
    })
    .collect()
}

/// One dump packed with one setting beside its prediction.
struct Pair {
    pages: f64,
    image_bytes: f64,
    saved: i64,
    predicted: i64,
    classes: Vec<Class>,
}

impl Pair {
    fn of(
        image: &Image,
        bases: &BaseSet,
        options: &Options,
        profile: &FunctionProfile,
        codec: &Codec,
    ) -> anyhow::Result<Self> {
        let report = pack(image, bases, options)?.report;
        let query = Query {
            memory: Bytes::new(image.bytes()),
            chunksperpage: bases.fingerprinter().chunks() as u32,
            patchthreshold: options.patch_threshold,
            codec,
            own_bases: 1,
            runtime_base: true,
            library_share: 1.0,
        };
        let layout = profile.layout(&query);
        Ok(Self {
            pages: image.pages() as f64,
            image_bytes: image.bytes() as f64,
            saved: report.saved_bytes(),
            predicted: image.bytes().cast_signed() - layout.stored_bytes().get().cast_signed(),
            classes: classes(&layout, &report),
        })
    }

    /// Prediction less packing, of the bytes saved.
    fn off(&self) -> f64 {
        (self.predicted - self.saved) as f64 / (self.saved.abs() as f64).max(1.0)
    }
}

/// Where prediction and packing part, and whether that is the model or this dump. `measured` is the dump that the model was made of, where
/// another one was checked.
fn why(pair: &Pair, measured: Option<&Pair>) -> String {
    let gap: f64 = pair.classes.iter().map(Class::gap).sum();
    let mut by_size: Vec<&Class> = pair.classes.iter().filter(|c| c.gap() != 0.0).collect();
    by_size.sort_by(|a, b| b.gap().abs().total_cmp(&a.gap().abs()));
    let mut text =
        format!("stores {:.2} MB {} than predicted", gap.abs() / 1e6, if gap > 0.0 { "less" } else { "more" });
    for class in by_size.iter().take(2) {
        let more = if class.gap() > 0.0 { "less" } else { "more" };
        text += &format!("; {:.2} MB {more} {}: {}", class.gap().abs() / 1e6, class.class, class.told(pair.pages));
    }
    let of = |p: &Pair| p.saved as f64 / p.image_bytes;
    text += &match measured {
        Some(m) if m.off().abs() * 2.0 < pair.off().abs() => format!(
            ". Not the model but the spread between instances: packing saves {} % of the dump measured, where the model is off by {:+.1} %, and {} % of this one",
            percent(of(m)),
            100.0 * m.off(),
            percent(of(pair))
        ),
        Some(m) => format!(
            ". The model itself: it is off by {:+.1} % on the dump it was made of too; {}",
            100.0 * m.off(),
            own_error(pair)
        ),
        None => format!(". The model itself, since this is the dump it was made of; {}", own_error(pair)),
    };
    text
}

/// What the model leaves out that shows in the class which is furthest off.
fn own_error(pair: &Pair) -> &'static str {
    let worst = pair.classes.iter().max_by(|a, b| a.gap().abs().total_cmp(&b.gap().abs()));
    match worst.map_or("", |c| c.class) {
        "patched" => "patch sizes are one line in edits and bytes for all functions, and a group of pages has one mean",
        "compressed alone" => "pages without a base page are taken at their mean at five chunks",
        "equal to a base page" => "a page counts as equal only if every number of chunks finds its equal",
        "kept whole" => "a group of pages is patched or kept as a whole, by its mean",
        _ => "a page is taken to have an entry of constant size",
    }
}

pub(super) fn check(
    args: &ModelArgs,
    functions: &[(String, Vec<Image>)],
    set: &ProfileSet,
    out: &Output,
) -> anyhow::Result<()> {
    let mut rows: Vec<Check> = Vec::new();
    let mut seen = Vec::new();
    for ((name, images), profile) in functions.iter().zip(&set.function) {
        // An instance that the model has not seen, if there is one.
        let unseen = images.get(2);
        let image = unseen.unwrap_or(&images[1]);
        if unseen.is_none() {
            seen.push(name.as_str());
        }
        for chunks in KS {
            let bases = args.search.bases(Sampling::ValueSampled, chunks, &images[..1])?;
            for (codec, coding, ..) in CODECS.iter().filter(|c| CHECKED.contains(&c.0)) {
                let coding: Coding = *coding;
                let options = Options {
                    choose: args.search.choose(),
                    coding,
                    patch_threshold: args.search.patch_threshold,
                    threads: args.search.threads,
                };
                let of_codec = set.codec.get(*codec).with_context(|| format!("no codec {codec} in the model"))?;
                let pair = Pair::of(image, &bases, &options, profile, of_codec)?;
                let within = pair.off().abs() <= TOLERANCE;
                let mut reason = None;
                if !within {
                    let measured = unseen.map(|_| Pair::of(&images[1], &bases, &options, profile, of_codec));
                    reason = Some(why(&pair, measured.transpose()?.as_ref()));
                }
                rows.push(Check {
                    function: name.clone(),
                    codec,
                    chunks,
                    saved_bytes: pair.saved,
                    predicted_bytes: pair.predicted,
                    off: pair.off(),
                    within,
                    classes: pair.classes,
                    why: reason,
                });
            }
        }
        out.say(format!("{name}: checked"));
    }
    let heads = ["function".to_string(), "codec".into(), "saved %".into()];
    let mut table = Table::new(heads.into_iter().chain(KS.iter().map(|k| format!("{k}"))));
    for ((name, images), codec) in functions.iter().flat_map(|f| CHECKED.iter().map(move |c| (f, c))) {
        let of: Vec<_> = rows.iter().filter(|r| r.function == *name && r.codec == *codec).collect();
        let bytes = images.get(2).unwrap_or(&images[1]).bytes() as f64;
        let at5 = of.iter().find(|r| r.chunks == 5).map_or(0.0, |r| r.saved_bytes as f64 / bytes);
        let cells = of.iter().map(|r| format!("{:+.1}{}", 100.0 * r.off, if r.within { "" } else { "!" }));
        table.row([name.clone(), codec.to_string(), percent(at5)].into_iter().chain(cells));
    }
    let inside = rows.iter().filter(|r| r.within).count();
    let mut text = format!(
        "Prediction less packing, % of the bytes saved, by chunks a page (saved %: packed, at 5 chunks); !: over {:.0} %\n{}",
        100.0 * TOLERANCE,
        table.text()
    );
    text += &format!("{inside} of {} within {:.0} %.\n", rows.len(), 100.0 * TOLERANCE);
    for r in &rows {
        if let Some(why) = &r.why {
            text += &format!("  {} {} at {} chunks: {why}.\n", r.function, r.codec, r.chunks);
        }
    }
    if !seen.is_empty() {
        text += &format!("Checked on the dump the model was made from (give a third): {}.\n", seen.join(", "));
    }
    out.result(&text, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(saved: i64, predicted: i64, packed_patches: f64) -> Pair {
        let class = |class, predicted_bytes, packed_bytes| Class {
            class,
            predicted_pages: 50.0,
            packed_pages: 40.0,
            predicted_bytes,
            packed_bytes,
        };
        let classes = vec![class("patched", 100_000.0, packed_patches), class("page tables", 1_600.0, 1_500.0)];
        Pair { pages: 100.0, image_bytes: 409_600.0, saved, predicted, classes }
    }

    #[test]
    fn the_class_that_is_furthest_off_is_named_and_so_is_whose_fault_it_is() {
        let off = pair(200_000, 300_000, 200_000.0);
        let alone = why(&off, None);
        assert!(
            alone.contains("more patched: predicted 50.0 % of pages at 2000 B, packed 40.0 % of pages at 5000 B"),
            "{alone}"
        );
        assert!(alone.contains("The model itself") && alone.contains("one line"), "{alone}");
        let spread = why(&off, Some(&pair(300_000, 300_000, 100_000.0)));
        assert!(spread.contains("the spread between instances") && spread.contains("73.2 %"), "{spread}");
        let own = why(&off, Some(&pair(200_000, 290_000, 190_000.0)));
        assert!(own.contains("off by +45.0 % on the dump it was made of too"), "{own}");
    }
}
