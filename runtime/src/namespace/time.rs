//! Time namespaces: creates one with clock offsets for a child.
//!
//! The kernel accepts offsets only while the namespace has no process, and clone3(2) would put the child into the new
//! namespace at once. So a thread creates the namespace for its children with unshare(2), writes the offsets, clones,
//! and exits. The thread cannot go back, because setns(2) refuses a multi-threaded process (time_namespaces(7)).

use std::{collections::HashMap, fs};

use berth_init::plan::Plan;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxTimeOffset};

use crate::{
    Context, Error, Kind, Result,
    namespace::{kind, path_to_join, thread::run_in_thread},
};

const FIELD: &str = "linux.timeOffsets";

/// Checks `linux.timeOffsets`.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the name of the field.
pub fn check(linux: &Linux) -> Result<()> {
    let namespace = linux.namespaces().iter().flatten().find(|n| n.typ() == LinuxNamespaceType::Time);
    let offsets = linux.time_offsets().iter().flatten();
    for (clock, offset) in offsets {
        let bad = |why: &str| Err(Error::invalid(format!("{FIELD}.{clock}: {why}")));
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return bad("the clocks with an offset are monotonic and boottime");
        }
        if offset.nanosecs().is_some_and(|n| n > 999_999_999) {
            return bad("nanosecs: more than a second");
        }
        match namespace {
            None => return bad("time namespace offsets specified, but time namespace isn't enabled in the config"),
            Some(n) if path_to_join(n).is_some() => {
                return bad("a time namespace that is joined by path has its offsets already");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Returns the text for `/proc/<pid>/timens_offsets` (time_namespaces(7)). It is empty without offsets.
pub fn offsets(wanted: Option<&HashMap<String, LinuxTimeOffset>>) -> String {
    let mut lines: Vec<_> = wanted
        .into_iter()
        .flatten()
        .map(|(clock, o)| format!("{clock} {} {}\n", o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0)))
        .collect();
    lines.sort_unstable();
    lines.concat()
}

/// Runs `clone` in a thread that has created a time namespace with `offsets` for its children.
///
/// # Errors
/// [`Kind::Unsupported`] if the kernel lacks time namespaces. Other errors are the kernel's for an offset.
pub fn clone_in_new<T: Send>(
    plan: &Plan<'_>,
    offsets: &str,
    clone: impl FnOnce(&Plan<'_>) -> Result<T> + Send,
) -> Result<T> {
    run_in_thread(plan, |plan| {
        berth_init::sys::unshare(kind::TIME).map_err(unsupported)?;
        if !offsets.is_empty() {
            // /proc/<tid> works for any thread, although /proc does not list it.
            let file = format!("/proc/{}/timens_offsets", rustix::thread::gettid().as_raw_nonzero());
            fs::write(&file, offsets).with_context(|| format!("{FIELD}: write timens_offsets"))?;
        }
        clone(plan)
    })
}

/// Words the error for a kernel without time namespaces.
pub fn unsupported(e: rustix::io::Errno) -> Error {
    let error = Error::from(e);
    let error = if e == rustix::io::Errno::INVAL { error.with_kind(Kind::Unsupported) } else { error };
    error.context("linux.namespaces: time namespaces aren't enabled in the kernel")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn linux(namespaces: Value, offsets: Value) -> Linux {
        serde_json::from_value(json!({"namespaces": namespaces, "timeOffsets": offsets})).unwrap()
    }

    #[test]
    fn time_offsets_that_cannot_work_are_refused_by_field() {
        let time = || json!([{"type": "time"}]);
        for (namespaces, offsets, says) in [
            (time(), json!({"realtime": {"secs": 1}}), "linux.timeOffsets.realtime: the clocks"),
            (time(), json!({"boottime": {"nanosecs": 1_000_000_000}}), "linux.timeOffsets.boottime: nanosecs"),
            (
                json!([]),
                json!({"boottime": {"secs": 1}}),
                "linux.timeOffsets.boottime: time namespace offsets specified",
            ),
            (
                json!([{"type": "time", "path": "/proc/1/ns/time"}]),
                json!({"monotonic": {"secs": 1}}),
                "linux.timeOffsets.monotonic: a time namespace that is joined",
            ),
        ] {
            let error = check(&linux(namespaces, offsets)).unwrap_err();
            assert!(error.to_string().starts_with(says), "{error}");
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
        check(&linux(time(), json!({"monotonic": {"secs": -1, "nanosecs": 5}}))).unwrap();
        check(&linux(json!([]), json!({}))).unwrap();
    }

    #[test]
    fn timens_offsets_have_one_line_per_clock() {
        let linux = linux(json!([]), json!({"monotonic": {"secs": -1, "nanosecs": 5}, "boottime": {"secs": 7}}));
        assert_eq!(offsets(linux.time_offsets().as_ref()), "boottime 7 0\nmonotonic -1 5\n");
        assert_eq!(offsets(None), "");
    }
}
