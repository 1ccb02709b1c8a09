//! `berth-soak`: runs the soak of the sizes in the environment (`PODS`, `EXECS`, `PROBED`, `MINUTES`), and prints its
//! tables in Markdown. It fails on the first fault.

use berth_integration::soak::{Plan, number, run};

fn main() {
    let plan = Plan {
        pods: number("PODS", 10_000),
        execs: number("EXECS", 1_000_000),
        probed: number("PROBED", 100),
        minutes: number("MINUTES", 60) as u64,
    };
    let tables: Vec<_> = run(plan).iter().map(ToString::to_string).collect();
    println!("{}", tables.join("\n"));
}
