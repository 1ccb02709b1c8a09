//! The terminal of a process, as far as a client changes it. Copying is `io`.

use std::os::fd::OwnedFd;

use berth_runtime::{Context, Error, Result};
use rustix::termios::{Winsize, tcsetwinsize};

/// Gives the terminal behind `master` a size, in characters; its foreground process group gets SIGWINCH.
///
/// # Errors
/// A size above 65,535.
pub fn resize(master: &OwnedFd, width: u32, height: u32) -> Result<()> {
    let size =
        |what: &str, n: u32| u16::try_from(n).map_err(|_| Error::invalid(format!("terminal {what} {n} is too large")));
    let size = Winsize { ws_col: size("width", width)?, ws_row: size("height", height)?, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).context("resize terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_side_sees_the_size() {
        let (master, slave) = crate::io::testing::pty();
        resize(&master, 132, 43).unwrap();
        let size = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
        assert!(resize(&master, 70_000, 1).unwrap_err().to_string().contains("width 70000"));
    }
}
