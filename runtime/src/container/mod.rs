//! An existing container: its state directory, the state of its init in the kernel, and its pid file.

pub mod inherited;
pub mod init;
pub mod pid_file;
pub mod start_socket;
pub mod state;
