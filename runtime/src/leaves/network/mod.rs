//! Network devices that the runtime moves into the container.

pub mod devices;
pub mod rtnetlink;
