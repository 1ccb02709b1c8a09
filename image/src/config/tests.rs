use serde_json::from_value;

use super::*;

const IDS: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n";
const BASE_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn made(image: &Value, asked: &Asked, host: &Host) -> Result<Value> {
    let image: ImageConfig = from_value(image.clone()).unwrap();
    let accounts = Accounts::new(IDS, "root:x:0:\nweb:x:34:\ntty:x:5:web\n");
    make(&image, &accounts, asked, host).map(|text| serde_json::from_slice(&text).unwrap())
}

/// The parts of `process` and the annotations that an image's configuration decides.
#[test]
fn configurations_become_what_conversion_md_says() {
    let sh = json!({"Cmd": ["sh"]});
    let path = json!([BASE_PATH, "HOME=/root"]);
    for (execution, pointer, expected) in [
        (json!({"Cmd": ["sh", "-c", "x"]}), "/process/args", json!(["sh", "-c", "x"])),
        (json!({"Entrypoint": ["/e", "1"], "Cmd": ["2"]}), "/process/args", json!(["/e", "1", "2"])),
        (json!({"Entrypoint": ["/e"], "Cmd": null}), "/process/args", json!(["/e"])),
        (sh.clone(), "/process/cwd", json!("/")),
        (json!({"Cmd": ["sh"], "WorkingDir": "/srv/x"}), "/process/cwd", json!("/srv/x")),
        (json!({"Cmd": ["sh"], "WorkingDir": "srv"}), "/process/cwd", json!("/srv")),
        (sh.clone(), "/process/env", path.clone()),
        (json!({"Cmd": ["sh"], "Env": []}), "/process/env", path),
        (
            json!({"Cmd": ["sh"], "Env": ["B=2", "A=1", "B=3"]}),
            "/process/env",
            json!(["B=2", "A=1", "B=3", BASE_PATH, "HOME=/root"]),
        ),
        (json!({"Cmd": ["sh"], "Env": ["PATH=/x", "HOME="]}), "/process/env", json!(["PATH=/x", "HOME="])),
        (json!({"Cmd": ["sh"], "User": "web", "Env": ["PATH=/x"]}), "/process/env", json!(["PATH=/x", "HOME=/srv"])),
        (sh.clone(), "/process/user", json!({"uid": 0, "gid": 0})),
        (json!({"Cmd": ["sh"], "User": "web"}), "/process/user", json!({"uid": 33, "gid": 34, "additionalGids": [5]})),
        (json!({"Cmd": ["sh"], "User": "33"}), "/process/user", json!({"uid": 33, "gid": 34})),
        (json!({"Cmd": ["sh"], "User": "77:tty"}), "/process/user", json!({"uid": 77, "gid": 5})),
        (json!({"Cmd": ["sh"], "User": "web:0"}), "/process/user", json!({"uid": 33, "gid": 0})),
        (
            json!({"Cmd": ["sh"], "StopSignal": "SIGQUIT"}),
            "/annotations/org.opencontainers.image.stopSignal",
            json!("SIGQUIT"),
        ),
        (
            json!({"Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
            "/annotations/org.opencontainers.image.exposedPorts",
            json!("53/udp,80/tcp"),
        ),
        (
            json!({"Cmd": ["sh"], "Labels": {"org.opencontainers.image.os": "mine", "a": "b"}}),
            "/annotations",
            json!({"a": "b", "org.opencontainers.image.os": "mine", "org.opencontainers.image.author": "ann"}),
        ),
        (
            json!({"Cmd": ["sh"], "Labels": {
                "org.systemd.property.SuccessAction": "'reboot-force'", "run.oci.keep_original_groups": "1", "a": "b"}}),
            "/annotations",
            json!({"a": "b", "org.opencontainers.image.os": "linux", "org.opencontainers.image.author": "ann"}),
        ),
        (
            json!({"Cmd": ["sh"], "Volumes": {"/v": {}}, "Healthcheck": {"Test": ["x"]}, "OnBuild": ["x"], "Memory": 5}),
            "/mounts/7",
            Value::Null,
        ),
    ] {
        let image = json!({"os": "linux", "author": "ann", "config": execution});
        let spec = made(&image, &Asked::default(), &Host::default()).unwrap();
        assert_eq!(spec.pointer(pointer).unwrap_or(&Value::Null), &expected, "{execution}");
        assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
        assert_eq!(spec["process"]["terminal"], json!(false));
    }
    for execution in [json!({}), json!({"Entrypoint": [], "Cmd": []}), json!({"Cmd": ["sh"], "User": "none"})] {
        assert!(made(&json!({"config": execution}), &Asked::default(), &Host::default()).is_err(), "{execution}");
    }
    assert!(made(&json!({"config": null}), &Asked::default(), &Host::default()).is_err());
}

#[test]
fn flags_win_over_the_image() {
    let image = json!({"config": {"Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["A=1", "B=2"], "User": "web", "WorkingDir": "/w", "Volumes": {"/v": {}}}});
    let with = |asked: Asked| made(&image, &asked, &Host::default()).unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let asked = Asked { args: words(&["x"]), ..Asked::default() };
    assert_eq!(with(asked)["process"]["args"], json!(["/e", "x"]));
    let asked = Asked { entrypoint: Some("/p".into()), ..Asked::default() };
    assert_eq!(with(asked)["process"]["args"], json!(["/p"]));
    let asked = Asked { entrypoint: Some(String::new()), args: words(&["x"]), ..Asked::default() };
    assert_eq!(with(asked)["process"]["args"], json!(["x"]));
    let asked = Asked { env: words(&["A=3", "C=4"]), terminal: true, user: Some("0".into()), ..Asked::default() };
    let spec = with(asked);
    assert_eq!(spec["process"]["env"], json!(["B=2", "A=3", "C=4", BASE_PATH, "TERM=xterm", "HOME=/root"]));
    assert_eq!(spec["process"]["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!(spec["process"]["terminal"], json!(true));
    let asked =
        Asked { cwd: Some("/x".into()), hostname: Some("h".into()), readonly: true, volumes: true, ..Asked::default() };
    let spec = with(asked);
    assert_eq!((&spec["process"]["cwd"], &spec["hostname"]), (&json!("/x"), &json!("h")));
    assert_eq!((&spec["root"]["readonly"], &spec["mounts"][7]["destination"]), (&json!(true), &json!("/v")));
}

#[test]
fn capabilities_are_a_set_by_name() {
    let image = json!({"config": {"Cmd": ["sh"]}});
    let with = |text: &str| {
        let asked = Asked { capabilities: Capabilities::parse(text), ..Asked::default() };
        let process = made(&image, &asked, &Host::default()).unwrap()["process"].clone();
        (process["capabilities"]["bounding"].clone(), process["noNewPrivileges"].clone())
    };
    assert_eq!(with("default").0.as_array().unwrap().len(), 3);
    assert_eq!(with("docker").0.as_array().unwrap().len(), 14);
    assert_eq!(with("docker").1, json!(false));
    assert_eq!(with("none"), (json!([]), json!(true)));
    assert_eq!(with("chown,CAP_KILL").0, json!(["CAP_CHOWN", "CAP_KILL"]));
}

#[test]
fn mappings_come_with_a_user_namespace_once() {
    let image = json!({"config": {"Cmd": ["sh"]}});
    let range = |container, host, size| Range { container, host, size };
    let ranges = Ranges { uids: vec![range(0, 1000, 1), range(1, 100_000, 9)], gids: vec![range(0, 50, 1)] };
    for rootless in [None, Some((1000, 50))] {
        let host = Host { unified: true, rootless, ranges: Some(ranges.clone()) };
        let linux = made(&image, &Asked::default(), &host).unwrap()["linux"].clone();
        let namespaces = linux["namespaces"].as_array().unwrap();
        assert_eq!(namespaces.iter().filter(|namespace| namespace["type"] == "user").count(), 1);
        assert_eq!(linux["uidMappings"][1], json!({"containerID": 1, "hostID": 100_000, "size": 9}));
        assert_eq!(linux["gidMappings"], json!([{"containerID": 0, "hostID": 50, "size": 1}]));
    }
}

#[test]
fn fields_come_in_the_order_of_the_specification() {
    let image: ImageConfig = from_value(json!({"config": {"Cmd": ["sh"], "Labels": {"z": "1"}}})).unwrap();
    let text = make(&image, &Accounts::default(), &Asked::default(), &Host::default()).unwrap();
    let text = String::from_utf8(text).unwrap();
    let places: Vec<_> =
        ["ociVersion", "process", "terminal", "user", "args", "root", "mounts", "annotations", "linux"]
            .iter()
            .map(|key| text.find(&format!("\"{key}\":")).unwrap())
            .collect();
    assert!(places.is_sorted(), "{text}");
}

/// The runtime refuses a config.json with such a text, and the user would learn of it after the image is unpacked.
#[test]
fn texts_that_no_runtime_takes_are_refused() {
    let volumes = Asked { volumes: true, ..Asked::default() };
    for (execution, word) in [
        (json!({"Cmd": ["sh"], "Env": ["A=b", "Ars"]}), "Ars"),
        (json!({"Cmd": ["sh"], "Env": ["=b"]}), "=b"),
        (json!({"Cmd": ["sh"], "Env": ["A=b\0c"]}), "A=b"),
        (json!({"Cmd": ["s\0h"]}), "NUL"),
        (json!({"Cmd": ["sh"], "WorkingDir": "/a\0b"}), "NUL"),
        (json!({"Cmd": ["sh"], "Volumes": {"/a\0b": {}}}), "NUL"),
    ] {
        let error = made(&json!({"config": execution}), &volumes, &Host::default()).unwrap_err().to_string();
        assert!(error.contains(word), "{execution}: {error}");
    }
}
