//! state.json of a container, cut short, changed or from another version. The oracle: what is accepted is written and read
//! again without a change, and has the version of this build.

use std::{cell::RefCell, fs};

use berth_runtime::state::Container;
use serde_json::Value;

use crate::scratch::Scratch;

thread_local! {
    static PLACE: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    PLACE.with_borrow_mut(|place| {
        let place = place.get_or_insert_with(|| {
            let place = Scratch::new();
            fs::create_dir(place.path().join("c")).unwrap();
            place
        });
        let file = place.path().join("c/state.json");
        fs::write(&file, data).unwrap();
        let Ok(container) = Container::load(place.path(), "c") else { return };
        assert_eq!(container.state().version, 1);
        let value = serde_json::to_value(container.state()).unwrap();
        fs::write(&file, value.to_string()).unwrap();
        let again = Container::load(place.path(), "c").unwrap_or_else(|e| panic!("{e}: {value}"));
        assert_eq!(serde_json::to_value(again.state()).unwrap(), value);
        // A member that is not read may have any bytes.
        let Ok(read) = serde_json::from_slice::<Value>(data) else { return };
        assert_eq!(read["pid"], value["pid"]);
        assert_eq!(read["cgroup"].is_object(), value["cgroup"].is_object());
    });
}
