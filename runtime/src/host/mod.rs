//! The host: facts that are read once, and access to its files, sockets and programs.

pub mod caller;
pub mod environment;
pub mod foreign_dir;
pub mod kernel;
pub mod mountinfo;
pub mod open_files;
pub mod own_process;
pub mod proc;
pub mod program;
pub mod signals;
pub mod time;
pub mod unix_address;
