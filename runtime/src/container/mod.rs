//! A container on record: its state directory, its init as the kernel has it, and the files for others.

pub mod inherited;
pub mod init;
pub mod pid_file;
pub mod start_socket;
pub mod state;
