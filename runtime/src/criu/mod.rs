//! CRIU, the program that writes the processes of a container to files and makes them again (criu.org).
//!
//! `criu swrk` takes requests on a socket: one packet a message, in the encoding of Protocol Buffers. A [`Session`] is
//! one such process. Its caller sends a request and reads [`Event`]s until the answer, as values and without callbacks.
//!
//! CRIU is no part of berth: only checkpoint and restore look for it, and its absence is an error of theirs.

pub mod find;
pub mod images;
pub mod log;
pub mod message;
mod proto;
pub mod session;

pub use self::{
    images::Images,
    message::{Options, Verb, option},
    session::{Event, Session, Version},
};
