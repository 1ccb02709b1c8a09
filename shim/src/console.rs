//! The size of a process's terminal. `io` copies its bytes.

use std::os::fd::OwnedFd;

use berth_runtime::{Context, Error, Result};
use oci_spec::runtime::{Box, BoxBuilder};
use rustix::termios::{Winsize, tcsetwinsize};

/// Makes a terminal size in characters.
///
/// # Errors
/// A dimension is above 65,535.
pub fn size(width: u32, height: u32) -> Result<Winsize> {
    let size =
        |what: &str, n: u32| u16::try_from(n).map_err(|_| Error::invalid(format!("terminal {what} {n} is too large")));
    Ok(Winsize { ws_col: size("width", width)?, ws_row: size("height", height)?, ws_xpixel: 0, ws_ypixel: 0 })
}

/// The size as `process.consoleSize` of config.json.
pub fn spec(size: Winsize) -> Option<Box> {
    BoxBuilder::default().width(size.ws_col).height(size.ws_row).build().ok()
}

/// Sets the size of the terminal behind `master`; its foreground process group gets SIGWINCH (tty_ioctl(4)).
///
/// # Errors
/// The ioctl failed.
pub fn resize(master: &OwnedFd, size: Winsize) -> Result<()> {
    tcsetwinsize(master, size).context("resize terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slave_sees_the_size_that_is_set() {
        let (master, slave) = crate::testing::pty();
        resize(&master, size(132, 43).unwrap()).unwrap();
        let seen = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((seen.ws_col, seen.ws_row), (132, 43));
        assert!(size(70_000, 1).unwrap_err().to_string().contains("width 70000"));
    }
}
