//! What the v1 and the v2 translation share: the meaning of the fields, and checks of names that come from outside.

use oci_spec::runtime::{LinuxBlockIo, LinuxHugepageLimit, LinuxResources, LinuxThrottleDevice};

use crate::error::{Error, Result};

/// Zero means "not set" in every number of `linux.resources` that this is used for.
pub(super) fn nonzero<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

/// `pids.max`. A limit of 0 is written as 1, as runc does so that both cgroup drivers agree (systemd has no 0): the
/// payload is there, it cannot fork.
pub(super) fn pids_max(limit: i64) -> String {
    match limit {
        0 => "1".to_owned(),
        l if l < 0 => "max".to_owned(),
        l => l.to_string(),
    }
}

/// A page size that can stand in a file name (config-linux.md: a number, one of K, M, G, and B), and its limit in bytes.
pub(super) fn hugepage(page: &LinuxHugepageLimit) -> Result<(&str, i64)> {
    let size = page.page_size().as_str();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or("");
    if number.is_empty() || number.starts_with('0') || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!("pageSize: {size:?} must be like 2MB")));
    }
    if page.limit() < 0 {
        return Err(Error::invalid(format!("limit: {} of {size} must not be negative", page.limit())));
    }
    Ok((size, page.limit()))
}

/// The lines for `rdma.max`, one a device, in the order of names so that every run writes the same.
pub(super) fn rdma(resources: &LinuxResources) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (device, limit) in resources.rdma().iter().flatten() {
        one_word(device)?;
        let mut line = device.clone();
        if let Some(handles) = limit.hca_handles() {
            line += &format!(" hca_handle={handles}");
        }
        if let Some(objects) = limit.hca_objects() {
            line += &format!(" hca_object={objects}");
        }
        if line.len() > device.len() {
            lines.push(line);
        }
    }
    lines.sort();
    Ok(lines)
}

/// A name that becomes one word of a line the kernel splits.
pub(super) fn one_word(name: &str) -> Result<()> {
    if name.is_empty() || name.bytes().any(|b| b.is_ascii_whitespace() || b == 0) {
        return Err(Error::invalid(format!("{name:?} must be one word")));
    }
    Ok(())
}

/// The four kinds of throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Throttle {
    ReadBps,
    WriteBps,
    ReadIops,
    WriteIops,
}

impl Throttle {
    /// The middle of `blkio.throttle.…_device`.
    pub(super) fn v1_name(self) -> &'static str {
        match self {
            Self::ReadBps => "read_bps",
            Self::WriteBps => "write_bps",
            Self::ReadIops => "read_iops",
            Self::WriteIops => "write_iops",
        }
    }

    /// The key in a line of `io.max`.
    pub(super) fn v2_name(self) -> &'static str {
        match self {
            Self::ReadBps => "rbps",
            Self::WriteBps => "wbps",
            Self::ReadIops => "riops",
            Self::WriteIops => "wiops",
        }
    }
}

/// Every throttled device with its kind.
pub(super) fn blkio_devices(block: &LinuxBlockIo) -> impl Iterator<Item = (Throttle, &LinuxThrottleDevice)> {
    let kinds = [
        (Throttle::ReadBps, block.throttle_read_bps_device()),
        (Throttle::WriteBps, block.throttle_write_bps_device()),
        (Throttle::ReadIops, block.throttle_read_iops_device()),
        (Throttle::WriteIops, block.throttle_write_iops_device()),
    ];
    kinds.into_iter().flat_map(|(kind, list)| list.iter().flatten().map(move |d| (kind, d)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `linux.resources` as config.json spells it.
    pub(in crate::cgroup) fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn page_sizes() {
        let page = |size: &str| {
            let json = format!(r#"{{"hugepageLimits":[{{"pageSize":{size:?},"limit":1}}]}}"#);
            hugepage(&resources(&json).hugepage_limits().as_ref().unwrap()[0]).is_ok()
        };
        for good in ["64KB", "2MB", "1GB", "16GB"] {
            assert!(page(good), "{good}");
        }
        for bad in ["", "MB", "2", "2mb", "02MB", "2MB/../x", "-2MB", "2.MB", "2TB"] {
            assert!(!page(bad), "{bad}");
        }
    }
}
