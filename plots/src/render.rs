//! Pictures of descriptions.
use crate::{PlotError, figure::Figure};
/// The figure as an SVG document.
pub fn svg(_figure: &Figure) -> Result<String, PlotError> {
    Ok(String::new())
}
/// The figure as a PNG file, two pixels a unit.
pub fn png(_figure: &Figure) -> Result<Vec<u8>, PlotError> {
    Ok(Vec::new())
}
