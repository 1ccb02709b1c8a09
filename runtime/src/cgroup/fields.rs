//! Fields of `linux.resources` that mean the same on v1 and v2, and checks of names in them that become part of file names
//! or lines.

use oci_spec::runtime::{LinuxBlockIo, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::error::{Error, Result};

/// Zero means "not set" in the numbers of `linux.resources` that this is used for.
pub(super) fn nonzero<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

/// The value of `pids.max`. A limit of 0 becomes 1, as with runc: systemd has no 0, and both drivers should agree. The
/// payload is the one process; it cannot fork.
pub(super) fn pids_max(limit: i64) -> String {
    match limit {
        0 => "1".to_owned(),
        l if l < 0 => "max".to_owned(),
        l => l.to_string(),
    }
}

/// The page size, which is part of a file name, and the limit in bytes.
pub(super) fn hugepage(page: &LinuxHugepageLimit) -> (&str, i64) {
    (page.page_size().as_str(), page.limit())
}

/// Checks a page size: a number and KB, MB or GB (config-linux.md). So it has no slash.
///
/// # Errors
/// Quotes the page size or the limit.
pub(super) fn check_hugepage(page: &LinuxHugepageLimit) -> Result<()> {
    let size = page.page_size().as_str();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or("");
    if number.is_empty() || number.starts_with('0') || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!("pageSize: {size:?} must be like 2MB")));
    }
    if page.limit() < 0 {
        return Err(Error::invalid(format!("limit: {} of {size} must not be negative", page.limit())));
    }
    Ok(())
}

/// Checks that the limit of memory and swap together is not below that of memory.
///
/// # Errors
/// In runc's words.
pub(super) fn check_swap(memory: &LinuxMemory) -> Result<()> {
    match (memory.limit(), memory.swap()) {
        (Some(limit @ 1..), Some(swap @ 1..)) if swap < limit => {
            Err(Error::invalid("memory+swap limit should be >= memory limit"))
        }
        _ => Ok(()),
    }
}

/// The lines for `rdma.max`, one for each device, in the order of names so that every run writes the same.
pub(super) fn rdma(resources: &LinuxResources) -> Vec<String> {
    let mut lines = Vec::new();
    for (device, limit) in resources.rdma().iter().flatten() {
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
    lines
}

/// Checks a name that becomes one word of a line, which the kernel splits at white space.
///
/// # Errors
/// Quotes the name.
pub(super) fn one_word(name: &str) -> Result<()> {
    if name.is_empty() || name.bytes().any(|b| b.is_ascii_whitespace() || b == 0) {
        return Err(Error::invalid(format!("{name:?} must be one word")));
    }
    Ok(())
}

/// The four kinds of I/O throttle.
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
    fn page_size_must_be_a_number_and_a_unit() {
        let page = |size: &str| {
            let json = format!(r#"{{"hugepageLimits":[{{"pageSize":{size:?},"limit":1}}]}}"#);
            check_hugepage(&resources(&json).hugepage_limits().as_ref().unwrap()[0]).is_ok()
        };
        for good in ["64KB", "2MB", "1GB", "16GB"] {
            assert!(page(good), "{good}");
        }
        for bad in ["", "MB", "2", "2mb", "02MB", "2MB/../x", "-2MB", "2.MB", "2TB"] {
            assert!(!page(bad), "{bad}");
        }
    }
}
