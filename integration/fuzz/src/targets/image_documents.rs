//! The JSON documents of an image, and the config.json that is made of its configuration. The oracle: the runtime accepts each
//! config.json that is made.

use std::path::PathBuf;

use berth_image::{
    config::{Asked, Capabilities, Host, image::ImageConfig, make, user::Accounts},
    fuzzing::{documents, is_json},
};
use berth_runtime::bundle::Bundle;

pub fn run(data: &[u8]) {
    let first = documents(data);
    // A name that is not read may have any bytes.
    assert!(is_json(data) || std::str::from_utf8(data).is_err() || first.iter().all(Option::is_none));
    assert_eq!(first, documents(data));
    let Ok(image) = serde_json::from_slice::<ImageConfig>(data) else { return };
    let accounts = Accounts::new("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:\n", "tty:x:5:web\n");
    let odd = data.len() & 1 == 1;
    let asked = Asked {
        args: if odd { vec!["a b".into(), "\u{1b}".into()] } else { Vec::new() },
        volumes: odd,
        capabilities: if odd { Capabilities::Docker } else { Capabilities::Default },
        ..Asked::default()
    };
    let host = Host { unified: odd, ..Host::default() };
    let Ok(text) = make(&image, &accounts, &asked, &host) else { return };
    let bundle = Bundle::from_json(PathBuf::from("/bundle"), &text);
    let bundle = bundle.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&text)));
    let process = bundle.spec.process().clone().unwrap();
    let given = image.config.env.iter().filter(|variable| variable.find('=').is_some_and(|at| at > 0));
    let env = process.env().clone().unwrap_or_default();
    for variable in given {
        let name = variable.split('=').next().unwrap();
        assert!(env.iter().any(|has| has.split('=').next() == Some(name)), "{variable:?} is not in {env:?}");
    }
}
