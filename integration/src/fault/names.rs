//! The names of system calls, from the table of the runtime's seccomp compiler.

/// A line of it: `name x86_64 i386 x32 aarch64 arm`.
const TABLE: &str = include_str!("../../../runtime/src/leaves/seccomp/syscalls.tbl");

/// The column of this machine.
const COLUMN: usize = if cfg!(target_arch = "aarch64") { 4 } else { 1 };

/// Returns the name of a system call, or its number if it has none.
pub fn of(number: u64) -> String {
    let text = number.to_string();
    let line = TABLE.lines().find(|line| line.split(' ').nth(COLUMN) == Some(&text));
    line.and_then(|line| line.split(' ').next()).map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    #[test]
    fn system_call_names_come_from_the_table_of_this_machine() {
        assert_eq!(super::of(libc::SYS_openat2.unsigned_abs()), "openat2");
        assert_eq!(super::of(100_000), "100000");
    }
}
