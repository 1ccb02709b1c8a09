//! Capabilities: the five sets of init and of exec, and unknown names.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Case, Refusal, all, refused, skipped_on_runc},
    runtime::Runtime,
};
use serde_json::{Value, json};

/// Sets the capabilities in the order bounding, effective, permitted, inheritable, ambient.
fn sets(bundle: Bundle, sets: [&[&str]; 5]) -> Bundle {
    let names = ["bounding", "effective", "permitted", "inheritable", "ambient"];
    let map = names.into_iter().zip(sets).map(|(name, caps)| (name.to_owned(), json!(caps)));
    bundle.set("/process/capabilities", Value::Object(map.collect()))
}

const CHOWN_KILL: &[&str] = &["CAP_CHOWN", "CAP_KILL"];
const KILL: &[&str] = &["CAP_KILL"];

#[test]
fn init_has_exactly_the_configured_capabilities() {
    all("caps", CASES);
}

const CASES: &[Case] = &[
    Case {
        name: "bounding, effective, permitted: and nothing inheritable or ambient",
        set: |b| b,
        sees: &[(
            "/caps",
            r#"{"bounding":536871968,"effective":536871968,"permitted":536871968,"inheritable":0,"ambient":0}"#,
        )],
    },
    Case {
        name: "empty sets are none at all",
        set: |b| sets(b, [&[]; 5]),
        sees: &[("/caps", r#"{"bounding":0,"effective":0,"permitted":0,"inheritable":0,"ambient":0}"#)],
    },
    Case {
        name: "no sets are none at all",
        set: |b| b.set("/process/capabilities", json!({})),
        sees: &[("/caps", r#"{"bounding":0,"effective":0,"permitted":0,"inheritable":0,"ambient":0}"#)],
    },
    Case {
        name: "root's execve fills the permitted set from the bounding one, as the kernel has it",
        set: |b| sets(b, [CHOWN_KILL, KILL, KILL, &[], &[]]).set("/process/noNewPrivileges", json!(false)),
        sees: &[("/caps", r#"{"bounding":33,"effective":33,"permitted":33,"inheritable":0,"ambient":0}"#)],
    },
    Case {
        name: "unless no_new_privs forbids it to gain any",
        set: |b| sets(b, [CHOWN_KILL, KILL, KILL, &[], &[]]),
        sees: &[("/caps", r#"{"bounding":33,"effective":32,"permitted":32,"inheritable":0,"ambient":0}"#)],
    },
    Case {
        name: "a user keeps none through execve",
        set: |b| sets(b, [CHOWN_KILL, KILL, KILL, &[], &[]]).set("/process/user", json!({"uid": 1000, "gid": 1000})),
        sees: &[("/caps", r#"{"bounding":33,"effective":0,"permitted":0,"inheritable":0,"ambient":0}"#)],
    },
    Case {
        name: "a user keeps the ambient ones",
        set: |b| {
            sets(b, [CHOWN_KILL, KILL, CHOWN_KILL, CHOWN_KILL, KILL])
                .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        },
        sees: &[("/caps", r#"{"bounding":33,"effective":32,"permitted":32,"inheritable":33,"ambient":32}"#)],
    },
    Case {
        name: "the inheritable set is the configured one",
        set: |b| sets(b, [CHOWN_KILL, KILL, KILL, KILL, &[]]).set("/process/user", json!({"uid": 1000, "gid": 1000})),
        sees: &[("/caps", r#"{"bounding":33,"effective":0,"permitted":0,"inheritable":32,"ambient":0}"#)],
    },
    Case {
        name: "every capability above 31, too",
        set: |b| {
            let high: &[&str] =
                &["CAP_MAC_OVERRIDE", "CAP_SYSLOG", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF"];
            sets(b, [high, high, high, &[], &[]])
        },
        sees: &[("/caps/bounding", "1052266987520"), ("/caps/effective", "1052266987520")],
    },
];

#[test]
fn unknown_capabilities_are_warned_about() {
    let runtime = Runtime::new("caps-unknown");
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let bundle = sets(Bundle::probe(&["report", "caps"]), [KILL; 5]);
        let bundle = bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_BOGUS"]));
        let out = runtime.run("c1", &bundle).ok();
        assert!(out.stderr.contains("level=warning") && out.stderr.contains("CAP_BOGUS"), "{set}: {out:#?}");
        for (set, caps) in out.json()["caps"].as_object().unwrap() {
            assert_eq!(*caps, 32, "{set}: {out:#?}");
        }
    }
}

/// The warning comes even if create fails, since the unknown name may be the cause.
#[test]
fn unknown_capabilities_are_warned_about_before_create_fails() {
    let runtime = Runtime::new("caps-unknown-first");
    let bogus: &[&str] = &["CAP_BOGUS"];
    let bundle = sets(Bundle::probe(&["report"]), [bogus, bogus, KILL, KILL, &[]]);
    runtime.create("c1", &bundle).fails(1, &["level=warning", "CAP_BOGUS", "unable to apply caps"]);
    runtime.assert_clean("unknown capabilities");
}

/// CVE-2022-24769, CVE-2022-29162 and the like: an exec has no inheritable capability that init does not have.
#[test]
fn exec_has_no_inheritable_and_no_ambient_capabilities() {
    let runtime = Runtime::new("caps-exec");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let rows: &[(&[&str], u64)] = &[
        (&["exec", "c1"], 536871968),
        (&["exec", "--cap", "CAP_CHOWN", "c1"], 536871969),
        (&["exec", "--cap", "CAP_CHOWN", "--cap", "CAP_SYS_ADMIN", "c1"], 538969121),
    ];
    for (words, bounding) in rows {
        let caps = runtime.cmd(&[words, &["/probe", "report", "caps"] as &[_]].concat()).ok().json();
        assert_eq!(caps["caps"]["inheritable"], 0, "{words:?}: {caps}");
        assert_eq!(caps["caps"]["ambient"], 0, "{words:?}: {caps}");
        assert_eq!(caps["caps"]["bounding"], *bounding, "{words:?}: {caps}");
        let caps = runtime
            .cmd(&[&["exec", "--user", "1000"], &words[1..], &["/probe", "report", "caps"]].concat())
            .ok()
            .json();
        assert_eq!(caps["caps"]["inheritable"], 0, "user: {words:?}: {caps}");
        assert_eq!(caps["caps"]["effective"], caps["caps"]["ambient"], "user: {words:?}: {caps}");
    }
}

/// The container gets the capabilities that the runtime has, in each order of loading the filter: before capabilities
/// are dropped, or after them with no_new_privs.
#[test]
fn capabilities_that_the_runtime_lacks_are_left_out() {
    if skipped_on_runc("what the runtime itself lacks", "it refuses the container") {
        return;
    }
    let runtime = Runtime::new("caps-lacking");
    let wanted: &[&str] = &["CAP_KILL", "CAP_SYSLOG"];
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    for (filter, no_new_privs) in [(None, false), (Some(&filter), false), (Some(&filter), true)] {
        let bundle = sets(Bundle::probe(&["report", "caps"]), [wanted, wanted, wanted, &[], &[]])
            .set("/process/noNewPrivileges", json!(no_new_privs))
            .set("/linux/seccomp", json!(filter));
        let lacking = ["setpriv", "--bounding-set", "-syslog"];
        let out = runtime.on("run", "c1", &bundle).through(&lacking).wait().ok();
        assert_eq!(out.json()["caps"]["effective"], 32, "{filter:?} {no_new_privs}: {out:#?}");
    }
}

#[test]
fn impossible_capability_sets_are_refused() {
    refused("caps-refused", REFUSED);
}

const REFUSED: &[Refusal] = &[Refusal {
    name: "a set that is no list",
    set: |b| b.set("/process/capabilities/bounding", json!("CAP_KILL")),
    says: &["process.capabilities.bounding"],
}];
