//! The payload's scheduler, I/O priority, CPU affinity of execs, memory policy and execution domain: of init, of execs
//! that inherit them, and of execs with their own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, differences, refused, skipped_on_runc},
    runtime::{Output, Runtime},
};
use serde_json::{Map, Value, json};

/// The probe's arguments: process, I/O priority, and as `stat` the real-time priority.
const PROBE: [&str; 8] =
    ["/probe", "report", "process", "uts", "read=/proc/self/stat", "read=/proc/self/numa_maps", "+", "syscall"];
/// ioprio_get(2) of this process.
const IO: &str = "252:1,0";

fn words() -> Vec<&'static str> {
    [&PROBE[..], &[IO]].concat()
}

/// Merges the lines of the probe into one object, with the fields of `stat` and the first policy of `numa_maps`.
fn report(out: Output) -> Value {
    let mut all = Map::new();
    for line in out.ok().stdout.lines() {
        all.extend(serde_json::from_str::<Map<String, Value>>(line).unwrap_or_else(|e| panic!("{line}: {e}")));
    }
    let read = |path: &str| all["read"][path].as_str().unwrap_or_default().to_owned();
    let stat = read("/proc/self/stat");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // proc_pid_stat(5): fields 40 and 41. The first field here is the third.
    let (priority, policy) = (fields[37].to_owned(), fields[38].to_owned());
    let memory = read("/proc/self/numa_maps");
    let memory = memory.split_whitespace().nth(1).unwrap_or("none").to_owned();
    let io = all["syscall"][IO].clone();
    all.extend([
        ("rt_priority".to_owned(), priority.into()),
        ("policy".to_owned(), policy.into()),
        ("memory".to_owned(), memory.into()),
        ("io".to_owned(), io),
    ]);
    Value::Object(all)
}

/// One row: fields of `process` and of `linux`, and the expected report.
struct Row {
    name: &'static str,
    process: fn() -> Value,
    linux: fn() -> Value,
    sees: &'static [(&'static str, &'static str)],
}

fn nothing() -> Value {
    json!({})
}

/// SCHED_RESET_ON_FORK as sched_getscheduler(2) shows it: 0x4000_0000.
const ROWS: &[Row] = &[
    Row {
        name: "nothing",
        process: nothing,
        linux: nothing,
        sees: &[("/policy", r#""0""#), ("/process/personality", "0"), ("/memory", r#""default""#)],
    },
    Row {
        name: "nice",
        process: || json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 7}}),
        linux: nothing,
        sees: &[("/policy", r#""0""#), ("/process/nice", "13")],
    },
    Row {
        name: "batch, not for children",
        process: || json!({"scheduler": {"policy": "SCHED_BATCH", "nice": 19, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}}),
        linux: nothing,
        sees: &[("/policy", r#""3""#), ("/process/policy", "1073741827"), ("/process/nice", "1")],
    },
    Row {
        name: "idle",
        process: || json!({"scheduler": {"policy": "SCHED_IDLE"}}),
        linux: nothing,
        sees: &[("/policy", r#""5""#)],
    },
    Row {
        name: "fifo",
        process: || json!({"scheduler": {"policy": "SCHED_FIFO", "priority": 5}}),
        linux: nothing,
        sees: &[("/policy", r#""1""#), ("/rt_priority", r#""5""#)],
    },
    Row {
        name: "round robin",
        process: || json!({"scheduler": {"policy": "SCHED_RR", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}}),
        linux: nothing,
        sees: &[("/policy", r#""2""#), ("/rt_priority", r#""99""#), ("/process/policy", "1073741826")],
    },
    Row {
        name: "I/O, best effort",
        process: || json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}}),
        linux: nothing,
        sees: &[("/io", "16388")],
    },
    Row {
        name: "I/O, real time",
        process: || json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 0}}),
        linux: nothing,
        sees: &[("/io", "8192")],
    },
    Row {
        name: "I/O, idle",
        process: || json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 7}}),
        linux: nothing,
        sees: &[("/io", "24583")],
    },
    Row {
        name: "an execution domain",
        process: nothing,
        linux: || json!({"personality": {"domain": "LINUX32"}}),
        sees: &[("/process/personality", "8"), ("/uts/machine", r#""i686""#)],
    },
    Row {
        name: "the usual execution domain",
        process: nothing,
        linux: || json!({"personality": {"domain": "LINUX"}}),
        sees: &[("/process/personality", "0"), ("/uts/machine", r#""x86_64""#)],
    },
    Row {
        name: "memory bound",
        process: nothing,
        linux: || json!({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}),
        sees: &[("/memory", r#""bind:0""#)],
    },
    Row {
        name: "memory interleaved, by static nodes",
        process: nothing,
        linux: || json!({"memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}}),
        sees: &[("/memory", r#""interleave=static:0""#)],
    },
    Row {
        name: "memory preferred",
        process: nothing,
        linux: || json!({"memoryPolicy": {"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}}),
        // The kernel ends the name there: "prefer (many):0".
        sees: &[("/memory", r#""prefer""#)],
    },
    Row {
        name: "memory local",
        process: nothing,
        linux: || json!({"memoryPolicy": {"mode": "MPOL_LOCAL"}}),
        sees: &[("/memory", r#""local""#)],
    },
    Row {
        name: "all at once",
        process: || json!({"scheduler": {"policy": "SCHED_BATCH", "nice": 3}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}}),
        linux: || json!({"personality": {"domain": "LINUX32"}, "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}),
        sees: &[("/policy", r#""3""#), ("/io", "16385"), ("/process/personality", "8"), ("/memory", r#""bind:0""#)],
    },
];

fn with(mut bundle: Bundle, process: &Value, linux: &Value) -> Bundle {
    for (parent, fields) in [("process", process), ("linux", linux)] {
        for (name, value) in fields.as_object().unwrap() {
            bundle = bundle.set(&format!("/{parent}/{name}"), value.clone());
        }
    }
    // Setting all this needs more rights than the payload has.
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}))
}

/// Returns whether a new cgroup may run real-time processes. If the v1 cpu controller distributes real-time bandwidth
/// (CONFIG_RT_GROUP_SCHED), a new cgroup has none, and the kernel refuses such a policy.
fn groups_may_run_in_real_time() -> bool {
    !std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists()
}

/// Each row applies to init, to an exec that inherits it and, for fields of `process`, to an exec with its own.
#[test]
fn scheduling_applies_to_init_and_execs() {
    let mut failed = vec![];
    for row in ROWS {
        let runtime = Runtime::new("scheduling");
        let (process, linux) = ((row.process)(), (row.linux)());
        if ["fifo", "round robin"].contains(&row.name) && !groups_may_run_in_real_time() {
            let out = runtime.run("c1", &with(Bundle::probe(&[]).args(&words()), &process, &linux));
            if out.code != 1 || !out.stderr.contains("error setting scheduler: operation not permitted") {
                failed.push(format!("{}: {out:#?}", row.name));
            }
            continue;
        }
        let mut check = |who: &str, out: Output| {
            let report = report(out);
            let mut wrong = differences(&report, row.sees);
            if row.name == "nothing" {
                // getpriority(2) returns 40 for the nicest down to 1.
                let callers = (20 - rustix::process::getpriority_process(None).unwrap()).to_string();
                wrong.extend(differences(&report, &[("/process/nice", &callers)]));
            }
            failed.extend(wrong.iter().map(|w| format!("{}, {who}: {w}", row.name)));
        };
        check("init", runtime.run("c1", &with(Bundle::probe(&[]).args(&words()), &process, &linux)));
        runtime.start("c2", &with(Bundle::probe(&["sleep", "100"]), &process, &linux));
        check("exec", runtime.exec("c2", &words()));
        if linux == nothing() {
            runtime.start("c3", &Bundle::probe(&["sleep", "100"]));
            let file = runtime.work().join("process.json");
            let config = with(Bundle::probe(&[]).args(&words()), &process, &linux).config;
            std::fs::write(&file, config["process"].to_string()).unwrap();
            check("exec of its own", runtime.cmd(&["exec", "--process", file.to_str().unwrap(), "c3"]));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// execCPUAffinity has the CPUs before and after the exec enters the cgroup. It does not apply to init.
#[test]
fn exec_cpu_affinity_sets_initial_and_final_cpus() {
    let two = std::thread::available_parallelism().unwrap().get() > 1;
    let all = Runtime::new("cpus-all").run("c1", &Bundle::probe(&["report", "process"])).ok().json();
    let all = all["process"]["affinity"].as_str().unwrap().to_owned();
    let mut failed = vec![];
    for (affinity, wanted) in [
        (json!({"initial": "0"}), "0"),
        (json!({"final": "0"}), "0"),
        (json!({"initial": "0", "final": " 0 ,, 1"}), all.as_str()),
        (json!({"initial": "0", "final": "1"}), "1"),
        (json!({"initial": "1", "final": "0"}), "0"),
        (json!({"initial": "", "final": ""}), all.as_str()),
    ] {
        if !two && affinity.to_string().contains('1') {
            continue;
        }
        let runtime = Runtime::new("cpus");
        let bundle = Bundle::probe(&["report", "process", "+", "sleep", "100"])
            .set("/process/execCPUAffinity", affinity.clone());
        runtime.start("c1", &bundle);
        berth_integration::runtime::wait_until(|| runtime.stdout_of(0).contains('\n'), || "no report".into());
        let init: Value = serde_json::from_str(runtime.stdout_of(0).lines().next().unwrap()).unwrap();
        if init["process"]["affinity"] != json!(all) {
            failed.push(format!("{affinity}: init on {}", init["process"]["affinity"]));
        }
        let exec = runtime.exec("c1", &["/probe", "report", "process"]).ok().json();
        if exec["process"]["affinity"] != json!(wanted) {
            failed.push(format!("{affinity}: exec on {}, not {wanted}", exec["process"]["affinity"]));
        }
        let file = runtime.work().join("process.json");
        let own = Bundle::probe(&["report", "process"]).set("/process/execCPUAffinity", json!({"final": "0"})).config;
        std::fs::write(&file, own["process"].to_string()).unwrap();
        let exec = runtime.cmd(&["exec", "--process", file.to_str().unwrap(), "c1"]).ok().json();
        if exec["process"]["affinity"] != json!("0") {
            failed.push(format!("{affinity}: exec of its own on {}", exec["process"]["affinity"]));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let runtime = Runtime::new("cpus-none");
    for field in ["initial", "final"] {
        let bundle = Bundle::probe(&["sleep", "100"]).set("/process/execCPUAffinity", json!({field: "1000"}));
        runtime.start("c1", &bundle);
        let words = format!("error setting {field} CPU affinity: invalid argument");
        runtime.exec("c1", &["/probe"]).fails(255, &[&words]);
        runtime.cmd(&["delete", "--force", "c1"]).ok();
    }
    runtime.assert_clean("cpus");
}

/// The caller of the runtime may be bound to some CPUs. The container has the CPUs of its cgroup.
#[test]
fn cpu_affinity_of_the_caller_is_not_inherited() {
    let runtime = Runtime::new("cpus-bound");
    let all = runtime.run("c1", &Bundle::probe(&["report", "process"])).ok().json();
    let all = &all["process"]["affinity"];
    let bound = || {
        let mut one = rustix::thread::CpuSet::new();
        one.set(0);
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        let init = runtime.run("c2", &Bundle::probe(&["report", "process"])).ok().json();
        runtime.start("c3", &Bundle::probe(&["sleep", "100"]));
        let exec = runtime.exec("c3", &["/probe", "report", "process"]).ok().json();
        [init, exec]
    };
    // The affinity is a thread's, and its children inherit it.
    let seen = std::thread::scope(|scope| scope.spawn(bound).join().unwrap());
    for report in seen {
        assert_eq!(&report["process"]["affinity"], all);
    }
}

#[test]
fn personality_flags_are_warned_about() {
    let runtime = Runtime::new("personality");
    let bundle = Bundle::probe(&["exit", "0"])
        .set("/linux/personality", json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}));
    let out = runtime.run("c1", &bundle).ok();
    assert!(
        out.stderr.contains("ignoring unsupported personality flags") && out.stderr.contains("level=warning"),
        "{out:#?}"
    );
}

/// Settings that the runtime or the kernel refuses.
const IMPOSSIBLE: &[Refusal] = &[
    Refusal {
        name: "a nice value out of range",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20})),
        says: &["scheduler.nice"],
    },
    Refusal {
        name: "a static priority for a policy without",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "priority": 1})),
        says: &["scheduler.priority can only be specified for SchedFIFO or SchedRR"],
    },
    Refusal {
        name: "a deadline for a policy without",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "deadline": 1})),
        says: &["scheduler", "deadline", "SchedDeadline"],
    },
    Refusal {
        name: "an unknown policy",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_WARP"})),
        says: &["scheduler"],
    },
    Refusal {
        name: "an unknown flag",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_WARP"]})),
        says: &["scheduler", "flag"],
    },
    Refusal {
        name: "a policy that Linux lacks",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_ISO"})),
        says: &["error setting scheduler: invalid argument"],
    },
    Refusal {
        name: "a deadline without times",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_DEADLINE"})),
        says: &["error setting scheduler"],
    },
    Refusal {
        name: "an I/O priority out of range",
        set: |b| b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8})),
        says: &["ioPriority.Priority: 8"],
    },
    Refusal {
        name: "an unknown I/O class",
        set: |b| b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_WARP", "priority": 1})),
        says: &["ioPriority", "class"],
    },
    Refusal {
        name: "an unknown domain",
        set: |b| b.set("/linux/personality", json!({"domain": "WARP"})),
        says: &["personality"],
    },
    Refusal {
        name: "memory bound to nothing",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"})),
        says: &["memory policy mode", "requires at least one node but got 0"],
    },
    Refusal {
        name: "nodes for a mode without",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_LOCAL", "nodes": "0"})),
        says: &["memory policy", "mode requires 0 nodes but got 1"],
    },
    Refusal {
        name: "an unknown mode",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_WARP", "nodes": "0"})),
        says: &["invalid memory policy mode", "MPOL_WARP"],
    },
    Refusal {
        name: "an unknown flag",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["WARP"]})),
        says: &["invalid memory policy flag", "WARP"],
    },
    Refusal {
        name: "a deadline policy on some of the CPUs",
        set: |b| {
            let deadline = json!({"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000,
                "period": 1_000_000});
            b.set("/linux/resources/cpu", json!({"cpus": "0"})).set("/process/scheduler", deadline)
        },
        says: &["process scheduler can't be used together with AllowedCPUs"],
    },
    Refusal {
        name: "a node that is not there",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "900"})),
        says: &["invalid argument"],
    },
];

/// Settings that runc leaves to the kernel, or to luck.
const LEFT_TO_LUCK: &[Refusal] = &[
    Refusal {
        name: "a real-time policy without a priority",
        set: |b| b.set("/process/scheduler", json!({"policy": "SCHED_FIFO"})),
        says: &["process.scheduler.priority", "1 to 99"],
    },
    Refusal {
        name: "CPUs that are none",
        set: |b| b.set("/process/execCPUAffinity", json!({"initial": "a-b"})),
        says: &["process.execCPUAffinity.initial"],
    },
    Refusal {
        name: "CPUs in the wrong order",
        set: |b| b.set("/process/execCPUAffinity", json!({"final": "3-1"})),
        says: &["process.execCPUAffinity"],
    },
    Refusal {
        name: "nodes that are none",
        set: |b| b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "one"})),
        says: &["linux.memoryPolicy.nodes"],
    },
    Refusal {
        name: "flags that exclude each other",
        set: |b| {
            let flags = json!(["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]);
            b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": flags}))
        },
        says: &["linux.memoryPolicy.flags", "exclude"],
    },
    Refusal {
        name: "a wrong type",
        set: |b| b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": "high"})),
        says: &["process.ioPriority.priority"],
    },
];

#[test]
fn impossible_scheduling_is_refused() {
    refused("scheduling-bad", IMPOSSIBLE);
    if !skipped_on_runc("more of them", "it leaves them to the kernel, or to luck") {
        refused("scheduling-worse", LEFT_TO_LUCK);
    }
}
