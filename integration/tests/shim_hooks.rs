//! Hooks of a container under a shim: the same moments as on the command line, their output in the log, and a failure
//! as the error of the call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    shim::Shim,
    wait::{LONG, until_true},
};
use serde_json::{Value, json};
use std::fs;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn script(text: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", text]}])
}

#[test]
fn hooks_run_in_order_and_their_output_is_logged() {
    let shim = Shim::start("hooks");
    let order = shim.work().join("order");
    let mut bundle = Bundle::probe(&["sleep", "1000"]).set("/hooks", json!({}));
    for kind in KINDS.iter().filter(|kind| **kind != "startContainer") {
        let text = format!("echo {kind} >> {}; echo hello from {kind}; grep -o '\"id\":\"c1\"' >&2", order.display());
        bundle = bundle.set(&format!("/hooks/{kind}"), script(&text));
    }
    bundle = bundle.set("/hooks/startContainer", json!([{"path": "/probe", "args": ["probe", "exit", "0"]}]));
    let ran = || fs::read_to_string(&order).unwrap_or_default().lines().map(ToOwned::to_owned).collect::<Vec<_>>();
    shim.run("c1", &bundle);
    assert_eq!(ran(), ["prestart", "createRuntime", "createContainer", "poststart"]);
    assert_eq!(shim.phase("c1", ""), "RUNNING");
    shim.end("c1");
    assert_eq!(ran().last().unwrap(), "poststop");
    if !skipped_on_runc("the log", "it keeps what hooks say to itself") {
        let mut log = String::new();
        for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
            for words in [format!("{kind} hook #0: stdout: hello from {kind}"), format!("{kind} hook #0: stderr: ")] {
                until_true(&words, LONG, || {
                    log += &shim.log();
                    log.contains(&words)
                });
            }
        }
    }
    shim.assert_clean();
}

#[test]
fn failing_create_hook_fails_create() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let shim = Shim::start("hooks-create");
        let after = shim.work().join("after");
        let bundle = Bundle::probe(&["exit", "0"])
            .set("/hooks", json!({kind: script("echo why >&2; exit 5")}))
            .set("/hooks/poststop", script(&format!("echo gone > {}", after.display())));
        let failure = shim.create("c1", &bundle).unwrap_err();
        assert!(failure.message.starts_with("OCI runtime create failed: "), "{failure:?}");
        let words = format!("error running {kind} hook #0: exit status 5, stdout: , stderr: why");
        assert!(failure.message.contains(&words), "{failure:?}");
        assert_eq!(fs::read_to_string(&after).unwrap_or_default(), "gone\n", "{kind}");
        shim.assert_clean();
    }
}

#[test]
fn failing_start_hook_fails_start() {
    if skipped_on_runc("hooks of start", "they fail at create, or unheard") {
        return;
    }
    for (kind, hook) in [
        ("startContainer", json!([{"path": "/probe", "args": ["probe", "complain", "why", "+", "exit", "5"]}])),
        ("poststart", script("echo why >&2; exit 5")),
    ] {
        let shim = Shim::start("hooks-start");
        let after = shim.work().join("after");
        let bundle = Bundle::probe(&["sleep", "1000"])
            .set("/hooks", json!({kind: hook}))
            .set("/hooks/poststop", script(&format!("echo gone > {}", after.display())));
        shim.create("c1", &bundle).unwrap();
        let failure = shim.start_process("c1", "").unwrap_err();
        let words = format!("error running {kind} hook #0: exit status 5, stdout: , stderr: why");
        assert!(failure.message.contains(&words), "{failure:?}");
        assert_eq!(shim.phase("c1", ""), "STOPPED", "{kind}");
        shim.delete("c1", "").unwrap();
        assert_eq!(fs::read_to_string(&after).unwrap_or_default(), "gone\n", "{kind}");
        shim.events.until("delete c1");
        assert_eq!(shim.events.count("start"), 0, "{kind}");
        shim.assert_clean();
    }
}
