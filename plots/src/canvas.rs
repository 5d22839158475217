//! The few strokes that figures are made of, in the same units for SVG and PNG.
//!
//! Both are drawn four pixels a unit: plotters' backends take whole pixels, and lines drawn one pixel a
//! unit would wobble. The SVG then gets a view box, the PNG is averaged down to two pixels a unit, which
//! also smooths its edges.

use std::f64::consts::PI;
use std::sync::OnceLock;

use plotters::backend::DrawingBackend;
use plotters::prelude::{BitMapBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    FontDesc, FontFamily, FontStyle, FontTransform, IntoTextStyle, RGBAColor, ShapeStyle, register_font,
};

use crate::style::{FONT_FAMILY, Marker, PAPER, Rgb};

/// Pixels a unit, before the PNG is averaged.
const SCALE: f64 = 4.0;
/// Height from descent to ascent of the shipped font, em: ab_glyph sizes fonts by it.
const FONT_HEIGHT_EM: f64 = 1.164;
/// plotters divides sizes by this before it writes them into an SVG.
const SVG_SIZE: f64 = 1.24;
/// plotters puts bitmap text higher than SVG text of the same anchor, by this, em.
const BITMAP_DROP_EM: f64 = 0.16;

/// A place, units from the upper left corner.
pub type Xy = (f64, f64);

/// Which end of a text is at its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A text's size (units, of the em), weight and direction.
#[derive(Clone, Copy)]
pub struct Font {
    pub size: f64,
    pub bold: bool,
    /// Written upwards.
    pub up: bool,
}

impl Font {
    pub const fn of(size: f64) -> Self {
        Self { size, bold: false, up: false }
    }

    fn desc(self, size: f64) -> FontDesc<'static> {
        let style = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        FontDesc::new(FontFamily::Name(FONT_FAMILY), size, style)
    }

    /// Width of `text`, units.
    pub fn width(self, text: &str) -> f64 {
        ready_fonts();
        // Measured large, for plotters rounds to whole pixels.
        let large = self.size * FONT_HEIGHT_EM * 16.0;
        let measured = self.desc(large).layout_box(text).map(|(_, (width, _))| f64::from(width) / 16.0);
        measured.unwrap_or(text.chars().count() as f64 * self.size * 0.6)
    }

    /// `text` in lines no wider than `width` units, broken at blanks.
    pub fn wrap(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}")) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }
}

/// Makes the shipped fonts known to plotters, once.
fn ready_fonts() {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        // The files are compiled in and a test draws with both: they cannot be invalid.
        let _ = register_font(FONT_FAMILY, FontStyle::Normal, include_bytes!("../assets/DejaVuSans.ttf"));
        let _ = register_font(FONT_FAMILY, FontStyle::Bold, include_bytes!("../assets/DejaVuSans-Bold.ttf"));
    });
}

/// What is drawn on: strokes in units, errors as text.
pub struct Canvas<DB: DrawingBackend> {
    backend: DB,
    bitmap: bool,
}

type Drawn = Result<(), String>;

impl<DB: DrawingBackend> Canvas<DB> {
    fn px((x, y): Xy) -> (i32, i32) {
        let px = |v: f64| (v * SCALE).round().clamp(-1e6, 1e6) as i32;
        (px(x), px(y))
    }

    fn style(color: Rgb, alpha: f64, width: f64) -> ShapeStyle {
        let color = RGBAColor(color.0, color.1, color.2, alpha);
        ShapeStyle { color, filled: true, stroke_width: (width * SCALE).round().max(1.0) as u32 }
    }

    /// A filled shape.
    pub fn fill(&mut self, corners: &[Xy], color: Rgb, alpha: f64) -> Drawn {
        let corners: Vec<_> = corners.iter().map(|p| Self::px(*p)).collect();
        self.backend.fill_polygon(corners, &Self::style(color, alpha, 0.0)).map_err(|e| e.to_string())
    }

    /// A filled rectangle between two opposite corners.
    pub fn rect(&mut self, a: Xy, b: Xy, color: Rgb) -> Drawn {
        let (low, high) = ((a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1)));
        let style = Self::style(color, 1.0, 0.0);
        self.backend.draw_rect(Self::px(low), Self::px(high), &style, true).map_err(|e| e.to_string())
    }

    /// A line through `points`.
    pub fn line(&mut self, points: &[Xy], color: Rgb, width: f64) -> Drawn {
        let mut px: Vec<_> = points.iter().map(|p| Self::px(*p)).collect();
        px.dedup();
        if px.len() < 2 {
            return Ok(());
        }
        let style = Self::style(color, 1.0, width);
        if !self.bitmap {
            return self.backend.draw_path(px, &style).map_err(|e| e.to_string());
        }
        // The bitmap backend fills a path's outline by the even-odd rule, which leaves holes where a
        // jagged line overlaps itself: draw it piece by piece, the joints round.
        for (i, pair) in px.windows(2).enumerate() {
            self.backend.draw_path(pair.iter().copied(), &style).map_err(|e| e.to_string())?;
            if i > 0 && style.stroke_width > 3 {
                let radius = style.stroke_width / 2;
                self.backend.draw_circle(pair[0], radius, &style, true).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// A line through `points`, broken into strokes and gaps of the lengths in `dash` (solid if empty).
    pub fn dashed(&mut self, points: &[Xy], color: Rgb, width: f64, dash: &[f64]) -> Drawn {
        if dash.is_empty() || dash.iter().any(|d| *d <= 0.0) {
            return self.line(points, color, width);
        }
        for piece in dashes(points, dash) {
            self.line(&piece, color, width)?;
        }
        Ok(())
    }

    /// A text whose middle line runs through `at`.
    pub fn text(&mut self, text: &str, at: Xy, anchor: Anchor, font: Font, color: Rgb) -> Drawn {
        ready_fonts();
        let (size, drop) = match self.bitmap {
            true => (font.size * FONT_HEIGHT_EM, font.size * BITMAP_DROP_EM),
            false => (font.size * SVG_SIZE, 0.0),
        };
        let at = if font.up { (at.0 + drop, at.1) } else { (at.0, at.1 + drop) };
        let h = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let mut desc = font.desc(size * SCALE);
        if font.up {
            desc = desc.transform(FontTransform::Rotate270);
        }
        let color = RGBAColor(color.0, color.1, color.2, 1.0);
        let style = desc.into_text_style(&(1, 1)).color(&color).pos(Pos::new(h, VPos::Center));
        let text: String = text.chars().map(allowed).collect();
        self.backend.draw_text(&text, &style, Self::px(at)).map_err(|e| e.to_string())
    }

    /// A marker with half width `r`, units, set off from what lies under it.
    pub fn marker(&mut self, marker: Marker, (x, y): Xy, r: f64, color: Rgb) -> Drawn {
        let around = |n: usize, r: f64, turn: f64| -> Vec<Xy> {
            (0..n).map(|i| 2.0 * PI * i as f64 / n as f64 + turn).map(|a| (x + r * a.sin(), y - r * a.cos())).collect()
        };
        let square = |r: f64| vec![(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)];
        let (full, inner, rim) = (1.0, 0.5, 1.0);
        match marker {
            Marker::None => Ok(()),
            Marker::Disc => {
                self.fill(&around(24, r + rim, 0.0), PAPER, full)?;
                self.fill(&around(24, r, 0.0), color, full)
            }
            Marker::Ring => {
                self.fill(&around(24, r + rim, 0.0), PAPER, full)?;
                self.fill(&around(24, r, 0.0), color, full)?;
                self.fill(&around(24, r * inner, 0.0), PAPER, full)
            }
            Marker::Square => {
                self.fill(&square(r * 0.88 + rim), PAPER, full)?;
                self.fill(&square(r * 0.88), color, full)
            }
            Marker::Frame => {
                self.fill(&square(r * 0.88 + rim), PAPER, full)?;
                self.fill(&square(r * 0.88), color, full)?;
                self.fill(&square(r * 0.88 * inner), PAPER, full)
            }
            Marker::Up | Marker::Down => {
                let turn = if marker == Marker::Up { 0.0 } else { PI };
                self.fill(&around(3, (r + rim) * 1.25, turn), PAPER, full)?;
                self.fill(&around(3, r * 1.25, turn), color, full)
            }
            Marker::Diamond => {
                self.fill(&around(4, (r + rim) * 1.2, 0.0), PAPER, full)?;
                self.fill(&around(4, r * 1.2, 0.0), color, full)
            }
            Marker::Hexagon => {
                self.fill(&around(6, r + rim, 0.0), PAPER, full)?;
                self.fill(&around(6, r, 0.0), color, full)
            }
            Marker::Star => {
                let rays = |grow: f64| -> Vec<Xy> {
                    let (tips, dents) = (around(5, (r + grow) * 1.3, 0.0), around(5, (r + grow) * 0.55, PI / 5.0));
                    tips.into_iter().zip(dents).flat_map(|(tip, dent)| [tip, dent]).collect()
                };
                self.fill(&rays(rim), PAPER, full)?;
                self.fill(&rays(0.0), color, full)
            }
            Marker::Cross | Marker::Plus => {
                let ends = around(4, r * 1.1, if marker == Marker::Cross { PI / 4.0 } else { 0.0 });
                for (width, color) in [(r * 0.5 + 2.0 * rim, PAPER), (r * 0.5, color)] {
                    self.line(&[ends[0], ends[2]], color, width)?;
                    self.line(&[ends[1], ends[3]], color, width)?;
                }
                Ok(())
            }
        }
    }
}

/// The strokes of a dashed line through `points`.
fn dashes(points: &[Xy], dash: &[f64]) -> Vec<Vec<Xy>> {
    let (mut strokes, mut current) = (Vec::new(), points.first().map(|p| vec![*p]).unwrap_or_default());
    let (mut part, mut left) = (0, dash[0]);
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if length < left {
                left -= length;
                current.push(to);
                break;
            }
            let at = left / length.max(f64::MIN_POSITIVE);
            from = (from.0 + (to.0 - from.0) * at, from.1 + (to.1 - from.1) * at);
            current.push(from);
            if part % 2 == 0 {
                strokes.push(std::mem::take(&mut current));
            }
            part = (part + 1) % (dash.len() + dash.len() % 2);
            left = dash[part % dash.len()];
            current = vec![from];
        }
    }
    if part % 2 == 0 && current.len() > 1 {
        strokes.push(current);
    }
    strokes
}

/// Draws on an SVG of `width` x `height` units; `label` is what screen readers say.
pub fn svg<F>(width: f64, height: f64, label: &str, draw: F) -> Result<String, String>
where
    F: FnOnce(&mut Canvas<SVGBackend<'_>>) -> Drawn,
{
    let mut text = String::new();
    let size = ((width * SCALE) as u32, (height * SCALE) as u32);
    {
        let mut canvas = Canvas { backend: SVGBackend::with_string(&mut text, size), bitmap: false };
        canvas.rect((0.0, 0.0), (width, height), PAPER)?;
        draw(&mut canvas)?;
        canvas.backend.present().map_err(|e| e.to_string())?;
    }
    let body = text.split_once('>').map_or("", |(_, body)| body);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\" \
         role=\"img\" aria-label=\"{}\" stroke-linejoin=\"round\">{body}",
        size.0,
        size.1,
        escape(label)
    ))
}

/// Draws on a bitmap of two pixels a unit and encodes it as PNG.
pub fn png<F>(width: f64, height: f64, draw: F) -> Result<Vec<u8>, String>
where
    F: FnOnce(&mut Canvas<BitMapBackend<'_>>) -> Drawn,
{
    let (w, h) = ((width * SCALE) as u32 / 2 * 2, (height * SCALE) as u32 / 2 * 2);
    let mut pixels = vec![0xff; (w * h * 3) as usize];
    {
        let mut canvas = Canvas { backend: BitMapBackend::with_buffer(&mut pixels, (w, h)), bitmap: true };
        draw(&mut canvas)?;
        canvas.backend.present().map_err(|e| e.to_string())?;
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, w / 2, h / 2);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Two pixels a unit and 85 mm (480 units) a column are 288 pixels an inch.
    let metre = (f64::from(w / 2) / 0.085) as u32;
    encoder.set_pixel_dims(Some(png::PixelDimensions { xppu: metre, yppu: metre, unit: png::Unit::Meter }));
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(&halved(&pixels, w as usize)).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(out)
}

/// An RGB image of `width` pixels a row at half its size, each pixel the mean of four.
fn halved(pixels: &[u8], width: usize) -> Vec<u8> {
    let row = width * 3;
    let mut out = Vec::with_capacity(pixels.len() / 4);
    for two in pixels.chunks_exact(row * 2) {
        for i in 0..width / 2 {
            for c in 0..3 {
                let at = i * 6 + c;
                let sum: u16 = [at, at + 3, at + row, at + row + 3].iter().map(|i| u16::from(two[*i])).sum();
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    out
}

/// `c`, or the sign for what cannot be shown if XML does not allow it: plotters writes it as it is.
fn allowed(c: char) -> char {
    let forbidden = (c.is_control() && c != '\n') || matches!(c, '\u{fffe}' | '\u{ffff}');
    if forbidden { '\u{fffd}' } else { c }
}

/// `text` with the characters that HTML and XML take as markup replaced, and without control characters,
/// which XML does not allow.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(allowed(c)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_run_on_around_corners() {
        let strokes = dashes(&[(0.0, 0.0), (3.0, 0.0), (3.0, 3.0)], &[4.0, 1.0]);
        assert_eq!(strokes, [vec![(0.0, 0.0), (3.0, 0.0), (3.0, 1.0)], vec![(3.0, 2.0), (3.0, 3.0)]]);
        assert!(dashes(&[], &[1.0, 1.0]).is_empty());
    }

    #[test]
    fn halving_takes_the_mean_of_four() {
        let image = [0, 0, 0, 100, 100, 100, 100, 0, 255, 200, 100, 255];
        assert_eq!(halved(&image, 2), [100, 50, 153]);
    }

    #[test]
    fn text_is_as_wide_as_its_letters() {
        let font = Font::of(10.0);
        assert!((font.width("mm") - 2.0 * font.width("m")).abs() < 0.2);
        assert!((font.width("m") - 9.74).abs() < 0.1, "{}", font.width("m"));
        assert_eq!(font.wrap("one two three", font.width("one two") + 1.0), ["one two", "three"]);
    }

    #[test]
    fn markup_and_control_characters_do_not_get_through() {
        assert_eq!(escape("<a href='x'>&\"\u{0}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}");
    }
}
