use super::*;
use crate::{
    cgroup::{devices::rules, fields::tests::resources, systemd::device_policy, unit::Instance, v1, v2},
    error::Kind,
};

/// Properties as text: `TasksMax=uint64 5`.
fn line((name, value): &Property) -> String {
    let text = match value {
        Value::U64(u64::MAX) => "infinity".to_owned(),
        Value::U64(v) => v.to_string(),
        Value::Array(_, bytes) => bytes.iter().map(|b| format!("{b:?}")).collect::<Vec<_>>().join(" "),
        Value::Text(v) => v.clone(),
        other => format!("{other:?}"),
    };
    format!("{name}={text}")
}

/// The properties for `json`, and the adjusted rows.
fn on(hierarchy: Hierarchy, json: &str, version: u32) -> Result<(Vec<String>, Vec<Row>)> {
    let mut writes = match hierarchy {
        Hierarchy::V1 => v1::limits::rows(&resources(json)),
        Hierarchy::V2 => v2::limits::rows(&resources(json)),
    };
    let all = limits(hierarchy, &mut writes, version)?;
    Ok((all.iter().map(line).collect(), writes))
}

fn check(hierarchy: Hierarchy, json: &str, want: &[&str]) {
    assert_eq!(on(hierarchy, json, 257).unwrap().0, want, "{json}");
}

fn written(writes: &[Row], file: &str) -> String {
    writes.iter().find(|w| w.file == file).unwrap().value.clone()
}

#[test]
fn v2_limits_become_properties() {
    use Hierarchy::V2;
    check(V2, "{}", &[]);
    check(
        V2,
        r#"{"pids":{"limit":100},"memory":{"limit":1000,"swap":3000,"reservation":500},
            "cpu":{"shares":1024,"quota":20000,"period":50000,"cpus":"0-1,9","mems":"0"},"blockIO":{"weight":500}}"#,
        &[
            "TasksMax=100",
            "MemorySwapMax=2000",
            "MemoryMax=1000",
            "MemoryLow=500",
            "IOWeight=4950",
            "CPUWeight=100",
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=400000",
            "AllowedCPUs=Byte(3) Byte(2)",
            "AllowedMemoryNodes=Byte(1)",
        ],
    );
    check(V2, r#"{"pids":{"limit":-1}}"#, &["TasksMax=infinity"]);
    check(V2, r#"{"pids":{"limit":0}}"#, &["TasksMax=1"]);
    check(V2, r#"{"memory":{"limit":-1}}"#, &["MemorySwapMax=infinity", "MemoryMax=infinity"]);
    check(V2, r#"{"cpu":{"quota":-1}}"#, &["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=infinity"]);
}

#[test]
fn v1_limits_become_properties() {
    use Hierarchy::V1;
    check(V1, "{}", &[]);
    check(
        V1,
        r#"{"pids":{"limit":5},"memory":{"limit":1000,"swap":3000},
            "cpu":{"shares":512,"quota":20000,"period":50000,"cpus":"1"},"blockIO":{"weight":500}}"#,
        &[
            "CPUQuotaPeriodUSec=50000",
            "CPUQuotaPerSecUSec=400000",
            "AllowedCPUs=Byte(2)",
            "CPUShares=512",
            "MemoryLimit=1000",
            "TasksMax=5",
            "BlockIOWeight=500",
        ],
    );
    check(V1, r#"{"cpu":{"quota":-1}}"#, &["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=infinity"]);
}

#[test]
fn quota_between_hundredths_is_raised_in_property_and_file() {
    let json = r#"{"cpu":{"quota":1234,"period":100000}}"#;
    let (all, writes) = on(Hierarchy::V2, json, 257).unwrap();
    assert_eq!(all, ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=20000"]);
    assert_eq!(written(&writes, "cpu.max"), "2000 100000");
    let (all, writes) = on(Hierarchy::V1, json, 257).unwrap();
    assert_eq!(all, ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=20000"]);
    assert_eq!(written(&writes, "cpu.cfs_quota_us"), "2000");
    // A row of `unified` is written as it is.
    let (all, writes) = on(Hierarchy::V2, r#"{"unified":{"cpu.max":"1234"}}"#, 257).unwrap();
    assert_eq!(all, ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=20000"]);
    assert_eq!(written(&writes, "cpu.max"), "1234");
}

#[test]
fn unified_overrides_other_limits() {
    check(
        Hierarchy::V2,
        r#"{"memory":{"limit":5000},"unified":{"memory.max":"1G","memory.high":"max","memory.min":"4k","memory.low":" 7 ",
            "memory.swap.max":"0","pids.max":"0","cpu.weight":"7","cpuset.cpus":"","io.weight":"default 200",
            "io.max":"8:0 rbps=1","memory.oom.group":"1","hugetlb.2MB.max":"0"}}"#,
        &[
            "CPUWeight=7",
            "IOWeight=200",
            "MemoryHigh=infinity",
            "MemoryLow=7",
            "MemoryMax=1073741824",
            "MemoryMin=4096",
            "MemorySwapMax=0",
            "TasksMax=1",
        ],
    );
    check(Hierarchy::V2, r#"{"unified":{"io.weight":"8:0 200"}}"#, &[]);
    check(Hierarchy::V2, r#"{"unified":{"cpu.idle":"1","cpu.weight":"7"}}"#, &["CPUWeight=0"]);
    check(Hierarchy::V2, r#"{"cpu":{"idle":0}}"#, &[]);
}

#[test]
fn property_that_an_old_systemd_lacks_is_left_out() {
    let json = r#"{"cpu":{"idle":1,"quota":20000,"period":50000,"cpus":"0"}}"#;
    let rows: [(u32, &[&str]); 4] = [
        (241, &["CPUQuotaPerSecUSec=400000"]),
        (243, &["CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=400000"]),
        (251, &["CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=400000", "AllowedCPUs=Byte(1)"]),
        (252, &["CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=400000", "AllowedCPUs=Byte(1)", "CPUWeight=0"]),
    ];
    for (version, want) in rows {
        let (all, writes) = on(Hierarchy::V2, json, version).unwrap();
        assert_eq!(all, want, "{version}");
        assert_eq!(written(&writes, "cpuset.cpus"), "0");
    }
}

#[test]
fn error_quotes_the_malformed_value() {
    for (json, why) in [
        (r#"{"unified":{"memory.max":"much"}}"#, "memory.max: \"much\" is no number"),
        (r#"{"unified":{"memory.max":"99999999999999999G"}}"#, "is out of range"),
        (r#"{"unified":{"cpu.max":"1 0"}}"#, "cpu.max: \"1 0\" is out of range"),
        (r#"{"unified":{"cpu.max":"x"}}"#, "is no number"),
        (r#"{"cpu":{"cpus":"3-1"}}"#, "cpuset.cpus: \"3-1\" is no list"),
        (r#"{"cpu":{"cpus":"0-4000000000"}}"#, "is no list"),
        (r#"{"cpu":{"mems":"a"}}"#, "cpuset.mems: \"a\" is no list"),
    ] {
        let e = on(Hierarchy::V2, json, 257).unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidArgument);
        assert!(e.to_string().contains(why), "{json}: {e}");
    }
}

#[test]
fn unit_has_the_properties_of_runc() {
    let unit = Unit { name: "p-n.scope".to_owned(), slice: "a.slice".to_owned(), instance: Instance::System };
    let lines = |hierarchy| identity(&unit, "c1", 42, hierarchy).iter().map(line).collect::<Vec<_>>();
    let want = [
        "Description=libcontainer container c1",
        "Slice=a.slice",
        "Delegate=Bool(true)",
        "PIDs=U32(42)",
        "MemoryAccounting=Bool(true)",
        "CPUAccounting=Bool(true)",
        "IOAccounting=Bool(true)",
        "TasksAccounting=Bool(true)",
        "DefaultDependencies=Bool(false)",
        "CollectMode=inactive-or-failed",
    ];
    assert_eq!(lines(Hierarchy::V2), want);
    assert_eq!(lines(Hierarchy::V1)[6], "BlockIOAccounting=Bool(true)");
}

#[test]
fn annotations_become_properties() {
    let all = |pairs: &[(&str, &str)]| {
        let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        annotated(Some(&map))
    };
    let want = [
        ("CollectMode", Value::text("inactive-or-failed")),
        ("OOMScoreAdjust", Value::I32(5)),
        ("RuntimeMaxUSec", Value::U64(1_500_000)),
        ("Sec", Value::U64(7)),
        ("TimeoutStopUSec", Value::U64(123_456_000_000)),
    ];
    let given = [
        ("org.systemd.property.TimeoutStopSec", "uint64 123456"),
        ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
        ("org.systemd.property.OOMScoreAdjust", "5"),
        ("org.systemd.property.RuntimeMaxSec", "1.5"),
        ("org.systemd.property.Sec", "uint64 7"),
        ("org.criu.config", "not ours"),
    ];
    assert_eq!(all(&given).unwrap(), want.map(|(n, v)| (n.to_owned(), v)));
    assert_eq!(annotated(None).unwrap(), []);
    for (key, text, why) in [
        ("CollectMode", "inactive", "\"inactive\" is no value"),
        ("TimeoutStopSec", "'5'", "must be a number of seconds"),
        ("TimeoutStopSec", "-5", "must be a number of seconds"),
        ("TimeoutStopSec", "uint64 18446744073709551615", "must be a number of seconds"),
        ("A1b", "true", "letters only"),
        ("Ab", "true", "three at least"),
        ("PIDs", "[uint32 1]", "linux.cgroupsPath says"),
        ("Slice", "'b.slice'", "linux.cgroupsPath says"),
    ] {
        let key = format!("org.systemd.property.{key}");
        let e = all(&[(&key, text)]).unwrap_err().to_string();
        assert!(e.starts_with(&format!("annotation {key}={text}: ")) && e.contains(why), "{e}");
    }
}

#[test]
fn device_policy_never_allows_less_than_the_rules() {
    let lines = |hierarchy: Hierarchy, json: &str| -> Result<Vec<String>> {
        let rules = rules::rules(&resources(&format!(r#"{{"devices":[{json}]}}"#)))?;
        let pair = |value: &Value| match value {
            Value::Struct(pair) => match pair.as_slice() {
                [Value::Text(path), Value::Text(access)] => format!("{path} {access}"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let text = |(name, value): &Property| match value {
            Value::Array(_, list) => format!("{name}={}", list.iter().map(pair).collect::<Vec<_>>().join(",")),
            Value::Text(word) => format!("{name}={word}"),
            other => panic!("{other:?}"),
        };
        Ok(device_policy::properties(hierarchy, &rules)?.iter().map(text).collect())
    };
    let usual = "block-* m,char-* m,/dev/char/1:3 rwm,/dev/char/1:5 rwm,/dev/char/1:7 rwm,/dev/char/1:8 rwm,\
                 /dev/char/1:9 rwm,/dev/char/5:0 rwm,/dev/char/5:2 rwm,/dev/char/10:200 rwm,char-136 rwm";
    let deny_all = r#"{"allow":false,"access":"rwm"}"#;
    let hole = r#"{"allow":true,"type":"c","major":1,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":2,"access":"r"}"#;
    let open = ["DeviceAllow=", "DevicePolicy=auto"];
    for hierarchy in [Hierarchy::V1, Hierarchy::V2] {
        let strict = ["DeviceAllow=".to_owned(), "DevicePolicy=strict".to_owned(), format!("DeviceAllow={usual}")];
        assert_eq!(lines(hierarchy, deny_all).unwrap(), strict);
        assert_eq!(lines(hierarchy, r#"{"allow":true,"access":"rwm"}"#).unwrap(), open);
        let disk = lines(hierarchy, r#"{"allow":true,"type":"b","major":8,"minor":0,"access":"r"}"#).unwrap();
        assert!(disk[2].contains("/dev/block/8:0 r,"), "{disk:?}");
    }
    let minor = r#"{"allow":true,"type":"c","minor":7,"access":"r"}"#;
    assert!(lines(Hierarchy::V2, minor).unwrap()[2].contains("char-* r,"));
    assert!(lines(Hierarchy::V1, minor).unwrap_err().to_string().contains("device rule c *:7 r: systemd cannot"));
    assert_eq!(lines(Hierarchy::V2, hole).unwrap(), open);
    assert!(lines(Hierarchy::V1, hole).is_err());
    let blacklist = r#"{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":0,"access":"w"}"#;
    assert_eq!(lines(Hierarchy::V2, blacklist).unwrap(), open);
    assert!(lines(Hierarchy::V1, blacklist).unwrap_err().to_string().contains("device rule b 8:0 w: systemd cannot"));
}
