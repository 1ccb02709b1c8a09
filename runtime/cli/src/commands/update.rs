//! `update`: changes the resource limits of a container.

use std::{
    io::{Read, stdin},
    str::FromStr,
};

use berth_runtime::{Context, Error, Kind, Result, bundle, rdt, update};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::load;
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Usage, non_empty},
};

/// The arguments of `update`. A limit without a flag stays as it is.
#[derive(Debug, Default)]
pub struct UpdateArgs {
    id: String,
    resources: Option<String>,
    blkio_weight: i64,
    cpu_period: Option<String>,
    cpu_quota: Option<String>,
    cpu_burst: Option<String>,
    cpu_share: Option<String>,
    cpu_rt_period: Option<String>,
    cpu_rt_runtime: Option<String>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    kernel_memory: Option<String>,
    kernel_memory_tcp: Option<String>,
    memory: Option<String>,
    cpu_idle: Option<String>,
    memory_reservation: Option<String>,
    memory_swap: Option<String>,
    pids_limit: Option<i64>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
}

/// The command.
pub static COMMAND: Command<UpdateArgs> = Command {
    usage: Usage {
        name: "update",
        summary: "change the resource limits of a container",
        operands: "<container-id>",
        description: "A limit that no flag names stays as it is. The file of --resources holds JSON like
linux.resources of config.json. With it, the flags for single limits have no
effect.",
        ..Usage::DEFAULT
    },
    flags: FLAGS,
    operands: |args, operands| args.id = operands.one(),
    run,
};

/// The flags. Two are without a help text, because the kernel no longer has limits for kernel memory.
static FLAGS: &[Binding<UpdateArgs>] = &[
    Binding::text(&["resources", "r"], "file with the limits; '-' is the standard input", |args, text| {
        args.resources = non_empty(text);
    }),
    Binding::int(&["blkio-weight"], "weight for block I/O, from 10 to 1000", |args, weight| {
        args.blkio_weight = weight;
    }),
    Binding::text(&["cpu-period"], "length of a CPU period in microseconds; 0 is the default", |args, text| {
        args.cpu_period = non_empty(text);
    }),
    Binding::text(&["cpu-quota"], "CPU time for each period, in microseconds", |args, text| {
        args.cpu_quota = non_empty(text);
    }),
    Binding::text(&["cpu-burst"], "unused CPU time to save for later periods, in microseconds", |args, text| {
        args.cpu_burst = non_empty(text);
    }),
    Binding::text(&["cpu-share"], "weight of the container while CPUs are contended", |args, text| {
        args.cpu_share = non_empty(text);
    }),
    Binding::text(&["cpu-rt-period"], "length of a period for realtime tasks, in microseconds", |args, text| {
        args.cpu_rt_period = non_empty(text);
    }),
    Binding::text(&["cpu-rt-runtime"], "CPU time of realtime tasks for each period, in microseconds", |args, text| {
        args.cpu_rt_runtime = non_empty(text);
    }),
    Binding::text(&["cpuset-cpus"], "CPUs that the container may run on, such as 0-3,8", |args, text| {
        args.cpuset_cpus = non_empty(text);
    }),
    Binding::text(&["cpuset-mems"], "NUMA nodes that the container may get memory from", |args, text| {
        args.cpuset_mems = non_empty(text);
    }),
    Binding::text(&["kernel-memory"], "", |args, text| args.kernel_memory = non_empty(text)),
    Binding::text(&["kernel-memory-tcp"], "", |args, text| args.kernel_memory_tcp = non_empty(text)),
    Binding::text(&["memory"], "limit of memory in bytes, or with a unit: 512m", |args, text| {
        args.memory = non_empty(text);
    }),
    Binding::text(
        &["cpu-idle"],
        "1 schedules the container when CPUs are idle (SCHED_IDLE), 0 normally",
        |args, text| {
            args.cpu_idle = non_empty(text);
        },
    ),
    Binding::text(&["memory-reservation"], "soft limit of memory in bytes, or with a unit", |args, text| {
        args.memory_reservation = non_empty(text);
    }),
    Binding::text(&["memory-swap"], "limit of memory and swap together; -1 leaves swap unlimited", |args, text| {
        args.memory_swap = non_empty(text);
    }),
    Binding::int(&["pids-limit"], "largest number of tasks in the container", |args, limit| {
        args.pids_limit = Some(limit);
    }),
    Binding::text(&["l3-cache-schema"], "share of the L3 cache, as a resctrl schema (Intel CAT)", |args, text| {
        args.l3_cache_schema = non_empty(text);
    }),
    Binding::text(&["mem-bw-schema"], "share of memory bandwidth, as a resctrl schema (Intel MBA)", |args, text| {
        args.mem_bw_schema = non_empty(text);
    }),
];

fn run(globals: &Globals, args: UpdateArgs) -> Outcome {
    let container = load(globals, &args.id)?;
    let rdt =
        rdt::Update { l3_cache: args.l3_cache_schema.as_deref(), memory_bandwidth: args.mem_bw_schema.as_deref() };
    let resources = match args.resources.as_deref() {
        Some("-") => {
            let mut json = Vec::new();
            stdin().lock().read_to_end(&mut json).context("read the standard input")?;
            bundle::parse_resources(&json).context("--resources -")?
        }
        Some(path) => {
            let json = std::fs::read(path).with_context(|| format!("open {path}"))?;
            bundle::parse_resources(&json).with_context(|| format!("--resources {path}"))?
        }
        None => from_flags(&args)?,
    };
    update::update(&container, &resources, rdt)?;
    Ok(0)
}

/// The limits that the flags name.
fn from_flags(args: &UpdateArgs) -> Result<LinuxResources> {
    let mut resources = json!({ "cpu": {}, "memory": {}, "pids": {}, "blockIO": {} });
    let mut set = |block: &str, field: &str, value: Value| {
        if let Some(block) = resources.get_mut(block).and_then(Value::as_object_mut) {
            block.insert(field.to_owned(), value);
        }
    };
    for (text, field) in [(&args.cpuset_cpus, "cpus"), (&args.cpuset_mems, "mems")] {
        if let Some(text) = text {
            set("cpu", field, text.as_str().into());
        }
    }
    for (flag, text, field) in [
        ("cpu-burst", &args.cpu_burst, "burst"),
        ("cpu-period", &args.cpu_period, "period"),
        ("cpu-rt-period", &args.cpu_rt_period, "realtimePeriod"),
        ("cpu-share", &args.cpu_share, "shares"),
    ] {
        if let Some(number) = number::<u64>(flag, text)? {
            set("cpu", field, number.into());
        }
    }
    for (flag, text, field) in [
        ("cpu-quota", &args.cpu_quota, "quota"),
        ("cpu-rt-runtime", &args.cpu_rt_runtime, "realtimeRuntime"),
        ("cpu-idle", &args.cpu_idle, "idle"),
    ] {
        if let Some(number) = number::<i64>(flag, text)? {
            set("cpu", field, number.into());
        }
    }
    for (flag, text, field) in [
        ("memory", &args.memory, "limit"),
        ("memory-swap", &args.memory_swap, "swap"),
        ("memory-reservation", &args.memory_reservation, "reservation"),
    ] {
        if let Some(text) = text {
            let bytes = bytes(text).ok_or_else(|| invalid(flag, text, &"neither bytes, nor with a unit, nor -1"))?;
            set("memory", field, bytes.into());
        }
    }
    if args.kernel_memory.is_some() || args.kernel_memory_tcp.is_some() {
        log::warn!("Kernel memory settings are ignored and will be removed");
    }
    if args.blkio_weight != 0 {
        let weight = args.blkio_weight;
        let weight = u16::try_from(weight).map_err(|e| invalid("blkio-weight", &weight.to_string(), &e))?;
        set("blockIO", "weight", weight.into());
    }
    if let Some(limit) = args.pids_limit {
        set("pids", "limit", limit.into());
    }
    if let Some(blocks) = resources.as_object_mut() {
        blocks.retain(|_, block| block.as_object().is_none_or(|block| !block.is_empty()));
    }
    serde_json::from_value(resources).map_err(|e| Error::new(Kind::Internal, format!("encode the limits: {e}")))
}

/// The number that a flag gives; `None` without the flag.
fn number<N: FromStr<Err: std::fmt::Display>>(flag: &str, text: &Option<String>) -> Result<Option<N>> {
    text.as_ref().map(|text| text.parse().map_err(|e| invalid(flag, text, &e))).transpose()
}

fn invalid(flag: &str, text: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("invalid value for {flag}: {text:?}: {why}"))
}

/// Reads a number of bytes. It may have a binary unit, as with Docker: `512m`, `1.5GiB`, `100kb`. -1 means unlimited.
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
    use crate::args::arguments;

    fn limits(line: &str) -> Result<Value> {
        let args = arguments(&COMMAND, &line.split(' ').collect::<Vec<_>>());
        from_flags(&args).map(|resources| serde_json::to_value(resources).unwrap())
    }

    #[test]
    fn memory_size_is_read_as_by_docker() {
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
    fn update_sets_the_named_limits_only() {
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
    fn malformed_limit_is_named_by_its_flag() {
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
