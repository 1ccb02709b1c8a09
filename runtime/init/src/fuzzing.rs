//! Private functions for the fuzz targets (`integration/fuzz`). Nothing that is shipped enables this feature.

pub use crate::payload::find_home;
