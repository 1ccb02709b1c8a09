//! The parsers of usage for the fuzz targets.

use super::{
    files::{Counters, RdmaEntry, parse_number, parse_rdma},
    v1::{BlkioEntry, parse_blkio},
    v2::{IoEntry, Psi, parse_io, parse_psi},
};

/// Lines `name number`.
pub fn counters(text: &str) -> Vec<(String, u64)> {
    Counters::parse(text).iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A number, or `max`.
pub fn one_number(text: &str) -> u64 {
    parse_number(text)
}

/// Lines about block devices, of v1 and of v2.
pub fn numbers_of_devices(text: &str) -> (Vec<BlkioEntry>, Vec<IoEntry>) {
    (parse_blkio(text), parse_io(text))
}

/// A pressure file.
pub fn pressure(text: &str) -> Option<Psi> {
    parse_psi(text)
}

/// Lines about RDMA devices.
pub fn usage_of_rdma(text: &str) -> Vec<RdmaEntry> {
    parse_rdma(text)
}
