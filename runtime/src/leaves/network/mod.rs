//! Network devices that move into the container.

pub mod devices;
mod rtnetlink;
