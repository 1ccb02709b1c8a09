//! A pump in the handover document. Between two steps of [`Pump::run`] all of it is in its fields.

use std::sync::{Arc, Mutex, atomic::AtomicBool};

use berth_runtime::Result;
use tokio::sync::Notify;

use super::{Kind, Pump, Sink};
use crate::{
    carry::{self, Adopter, Bytes, Keeper},
    io::worker::Worker,
};

impl Pump {
    /// Writes the pump down.
    pub(in crate::io) fn carry(&self, keeper: &mut Keeper) -> Result<carry::Pump> {
        let Self { from, sink, kind, ending, wake: _, pending: _, worker: _ } = self;
        Ok(carry::Pump {
            kind: match kind {
                Kind::Input => carry::PumpKind::Input,
                Kind::Discard => carry::PumpKind::Discard,
                Kind::Output => carry::PumpKind::Output,
                Kind::Terminal => carry::PumpKind::Terminal,
            },
            from: keeper.keep(from)?,
            sink: match sink {
                Sink::Fifo(to) => carry::Sink::Fifo(keeper.keep(to)?),
                Sink::Pipe(to) => carry::Sink::Pipe(keeper.keep(to)?),
                Sink::Append(to) => carry::Sink::Append(keeper.keep(to)?),
                Sink::Nowhere => carry::Sink::Nowhere,
            },
            ending: ending.load(std::sync::atomic::Ordering::Relaxed),
            pending: Bytes(self.pending().clone()),
        })
    }

    /// Makes the pump again.
    pub(in crate::io) fn adopt(pump: carry::Pump, adopter: &mut Adopter) -> Result<Arc<Self>> {
        let carry::Pump { kind, from, sink, ending, pending } = pump;
        Ok(Arc::new(Self {
            from: adopter.share(from)?,
            sink: match sink {
                carry::Sink::Fifo(to) => Sink::Fifo(adopter.share(to)?),
                carry::Sink::Pipe(to) => Sink::Pipe(adopter.share(to)?),
                carry::Sink::Append(to) => Sink::Append(adopter.take(to)?),
                carry::Sink::Nowhere => Sink::Nowhere,
            },
            kind: match kind {
                carry::PumpKind::Input => Kind::Input,
                carry::PumpKind::Discard => Kind::Discard,
                carry::PumpKind::Output => Kind::Output,
                carry::PumpKind::Terminal => Kind::Terminal,
            },
            ending: AtomicBool::new(ending),
            wake: Notify::new(),
            pending: Mutex::new(pending.0),
            worker: Worker::default(),
        }))
    }
}
