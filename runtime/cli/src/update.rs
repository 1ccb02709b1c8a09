//! `update`: other limits for a running container.

use std::io::{Read, stdin};

use berth_runtime::{Context, Error, Kind, Result, bundle, rdt, update};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed, Takes},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "update",
    summary: "update container resource constraints",
    operands: "<container-id>",
    about: "Limits that are not named stay as they are. The file of --resources holds JSON like
linux.resources of config.json; when it is given, the other flags are ignored.",
    flags: &[
        Flag::value(&["resources", "r"], Takes::Text, "file with the limits, or '-' for the standard input"),
        Flag::value(&["blkio-weight"], Takes::Int, "weight of block IO, from 10 to 1000"),
        Flag::value(&["cpu-period"], Takes::Text, "period of the CPU limit in microseconds, 0 for the default"),
        Flag::value(&["cpu-quota"], Takes::Text, "CPU time in each period, in microseconds"),
        Flag::value(&["cpu-burst"], Takes::Text, "CPU time that may be saved up for a later period, in microseconds"),
        Flag::value(&["cpu-share"], Takes::Text, "CPU shares, relative to other containers"),
        Flag::value(&["cpu-rt-period"], Takes::Text, "period of the realtime CPU limit in microseconds"),
        Flag::value(&["cpu-rt-runtime"], Takes::Text, "realtime CPU time in each period, in microseconds"),
        Flag::value(&["cpuset-cpus"], Takes::Text, "CPUs to use"),
        Flag::value(&["cpuset-mems"], Takes::Text, "memory nodes to use"),
        Flag::value(&["kernel-memory"], Takes::Text, ""),
        Flag::value(&["kernel-memory-tcp"], Takes::Text, ""),
        Flag::value(&["memory"], Takes::Text, "memory limit in bytes, or with a unit"),
        Flag::value(&["cpu-idle"], Takes::Text, "1 for SCHED_IDLE, 0 for the default"),
        Flag::value(&["memory-reservation"], Takes::Text, "soft memory limit in bytes, or with a unit"),
        Flag::value(&["memory-swap"], Takes::Text, "limit of memory and swap together, -1 for unlimited swap"),
        Flag::value(&["pids-limit"], Takes::Int, "how many processes there may be"),
        Flag::value(&["l3-cache-schema"], Takes::Text, "schema of the L3 cache (Intel RDT/CAT)"),
        Flag::value(&["mem-bw-schema"], Takes::Text, "schema of memory bandwidth (Intel RDT/MBA)"),
    ],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let schema = |flag| parsed.text(flag).filter(|text: &&str| !text.is_empty());
    let rdt = rdt::Update { l3_cache: schema("l3-cache-schema"), memory_bandwidth: schema("mem-bw-schema") };
    let resources = match parsed.text("resources") {
        Some("-") => {
            let mut json = Vec::new();
            stdin().lock().read_to_end(&mut json).context("read the standard input")?;
            bundle::parse_resources(&json).context("--resources -")?
        }
        Some(path) => {
            let json = std::fs::read(path).with_context(|| format!("open {path}"))?;
            bundle::parse_resources(&json).with_context(|| format!("--resources {path}"))?
        }
        None => from_flags(parsed)?,
    };
    update::update(&container, &resources, rdt)?;
    Ok(0)
}

fn from_flags(parsed: &Parsed) -> Result<LinuxResources> {
    let mut resources = json!({ "cpu": {}, "memory": {}, "pids": {}, "blockIO": {} });
    let mut set = |block: &str, field: &str, value: Value| {
        if let Some(block) = resources.get_mut(block).and_then(Value::as_object_mut) {
            block.insert(field.to_owned(), value);
        }
    };
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = parsed.text(flag) {
            set("cpu", field, text.into());
        }
    }
    for (flag, field) in
        [("cpu-burst", "burst"), ("cpu-period", "period"), ("cpu-rt-period", "realtimePeriod"), ("cpu-share", "shares")]
    {
        if let Some(text) = parsed.text(flag) {
            set("cpu", field, text.parse::<u64>().map_err(|e| invalid(flag, text, &e))?.into());
        }
    }
    for (flag, field) in [("cpu-quota", "quota"), ("cpu-rt-runtime", "realtimeRuntime"), ("cpu-idle", "idle")] {
        if let Some(text) = parsed.text(flag) {
            set("cpu", field, text.parse::<i64>().map_err(|e| invalid(flag, text, &e))?.into());
        }
    }
    for (flag, field) in [("memory", "limit"), ("memory-swap", "swap"), ("memory-reservation", "reservation")] {
        if let Some(text) = parsed.text(flag) {
            let bytes = bytes(text).ok_or_else(|| invalid(flag, text, &"neither bytes, nor with a unit, nor -1"))?;
            set("memory", field, bytes.into());
        }
    }
    if parsed.text("kernel-memory").or(parsed.text("kernel-memory-tcp")).is_some() {
        log::warn!("Kernel memory settings are ignored and will be removed");
    }
    if let Some(weight) = parsed.int("blkio-weight").filter(|weight| *weight != 0) {
        let weight = u16::try_from(weight).map_err(|e| invalid("blkio-weight", &weight.to_string(), &e))?;
        set("blockIO", "weight", weight.into());
    }
    if let Some(limit) = parsed.int("pids-limit") {
        set("pids", "limit", limit.into());
    }
    if let Some(blocks) = resources.as_object_mut() {
        blocks.retain(|_, block| block.as_object().is_none_or(|block| !block.is_empty()));
    }
    serde_json::from_value(resources).map_err(|e| Error::new(Kind::Internal, format!("encode the limits: {e}")))
}

fn invalid(flag: &str, text: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("invalid value for {flag}: {text:?}: {why}"))
}

/// Bytes, with an optional binary unit as Docker takes it: `512m`, `1.5GiB`, `100kb`; -1 is unlimited.
fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let unit_at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at_checked(unit_at)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let scale = 1_i128 << shift;
    let part = fraction.parse::<i128>().ok()?.checked_mul(scale)?
        / 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    i64::try_from(whole.parse::<i128>().ok()?.checked_mul(scale)?.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn limits(line: &str) -> Result<Value> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let parsed = args::parse(COMMAND.flags, &words, false).unwrap();
        from_flags(&parsed).map(|resources| serde_json::to_value(resources).unwrap())
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, value) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("512m", Some(512 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("100kb", Some(102_400)),
            ("32B", Some(32)),
            ("1 g", Some(1 << 30)),
            ("-1", Some(-1)),
            ("-2", None),
            ("", None),
            ("m", None),
            ("5x", None),
            ("1.", None),
            ("99999999999999999999", None),
            ("9999999p", None),
        ] {
            assert_eq!(bytes(text), value, "{text:?}");
        }
    }

    #[test]
    fn only_what_is_named_is_set() {
        assert_eq!(limits("--memory 1m c").unwrap(), json!({"memory": {"limit": 1 << 20}}));
        assert_eq!(
            limits("--cpu-quota=-1 --cpu-share 512 --pids-limit=-1 --cpuset-cpus 0-1 --blkio-weight 20 c").unwrap(),
            json!({
                "cpu": {"quota": -1, "shares": 512, "cpus": "0-1"},
                "pids": {"limit": -1},
                "blockIO": {"weight": 20},
            })
        );
    }

    #[test]
    fn malformed_limits_are_named() {
        for (line, flag) in [
            ("--cpu-share x c", "cpu-share"),
            ("--cpu-quota 1s c", "cpu-quota"),
            ("--memory 1q c", "memory"),
            ("--blkio-weight 70000 c", "blkio-weight"),
        ] {
            let e = limits(line).unwrap_err().to_string();
            assert!(e.starts_with(&format!("invalid value for {flag}: ")), "{e}");
        }
    }
}
