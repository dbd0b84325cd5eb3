//! A TCP proxy that makes the network misbehave, in front of a provider, PostgreSQL or Redis.
//!
//! Everything can be changed while connections run, and holds for both directions unless a [`Direction`] is given. It
//! knows no protocol: a pattern is looked for in the bytes as they pass, so TLS must be off.
//!
//! | fault | what the two ends see |
//! | --- | --- |
//! | [`ChaosProxy::set_latency`] | every byte comes later by this much; order and pace are kept |
//! | [`ChaosProxy::set_throttle`] | so many bytes a second |
//! | [`ChaosProxy::set_black_hole`] | silence: connections open, nothing passes, a close neither; afterwards all goes on |
//! | [`ChaosProxy::set_down`] | every connection is reset, new ones at once |
//! | [`ChaosProxy::reset_all`] · [`ChaosProxy::close_all`] | what is open is cut now |
//! | [`ChaosProxy::cut_after`] | each new connection is cut when so many bytes have passed |
//! | [`ChaosProxy::cut_when`] | the first connection on which a pattern passes is cut before, after, or when it was answered |
//!
//! Limits: 1 MiB waits in each direction of a connection, then the sender is held back.

mod link;

use crate::host::{self, Host};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

impl Direction {
    const fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// When a connection is cut on which a pattern passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// What was read together with the pattern's end is not passed on.
    Before,
    /// It is passed on, then the connection is cut: the other end may or may not have acted on it.
    After,
    /// It is passed on, and the connection is cut when the other end answers. The answer is swallowed: the other end
    /// has acted, and this end can't know.
    Answered,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// By a reset.
    #[default]
    Reset,
    /// By a FIN.
    Close,
}

/// A running proxy; dropping it resets nothing but closes everything.
#[derive(Debug)]
pub struct ChaosProxy {
    addr: SocketAddr,
    control: Arc<Control>,
    // Last: its thread uses what stands above.
    _host: Host,
}

/// What all connections of one proxy share.
#[derive(Debug)]
struct Control {
    settings: watch::Sender<Settings>,
    /// Fires once; then it is taken.
    trigger: Mutex<Option<Trigger>>,
    cuts: watch::Sender<u64>,
    open: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    target: SocketAddr,
    latency: Duration,
    bytes_per_second: Option<u64>,
    black_hole: bool,
    down: bool,
    cut_after: Option<(Direction, u64, Cut)>,
    /// Counts the orders to cut everything, and how.
    kill: (u64, Cut),
}

#[derive(Clone, Debug)]
struct Trigger {
    direction: Direction,
    pattern: Vec<u8>,
    moment: Moment,
    cut: Cut,
}

impl ChaosProxy {
    /// Starts a proxy on a free port of 127.0.0.1; it listens when this returns.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = host::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
        let addr = listener.local_addr()?;
        let control = Arc::new(Control {
            settings: watch::Sender::new(Settings::harmless(target)),
            trigger: Mutex::default(),
            cuts: watch::Sender::new(0),
            open: AtomicUsize::new(0),
        });
        let mut host = Host::new();
        let shared = Arc::clone(&control);
        host.spawn("chaos-proxy", move || accept(listener, shared))?;
        Ok(Self { addr, control, _host: host })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends new connections elsewhere.
    pub fn set_target(&self, target: SocketAddr) {
        self.set(|settings| settings.target = target);
    }

    /// Delays every byte by this much, in each direction.
    pub fn set_latency(&self, latency: Duration) {
        self.set(|settings| settings.latency = latency);
    }

    /// Lets so many bytes a second pass, in each direction of each connection.
    pub fn set_throttle(&self, bytes_per_second: Option<u64>) {
        self.set(|settings| settings.bytes_per_second = bytes_per_second.map(|rate| rate.max(1)));
    }

    /// Lets nothing pass, as a cut cable does. Connections stay open, new ones too.
    pub fn set_black_hole(&self, on: bool) {
        self.set(|settings| settings.black_hole = on);
    }

    /// Resets every connection, and new ones as soon as they come.
    pub fn set_down(&self, down: bool) {
        self.set(|settings| {
            settings.down = down;
            settings.kill = (settings.kill.0 + u64::from(down), Cut::Reset);
        });
    }

    /// Resets the connections that are open.
    pub fn reset_all(&self) {
        self.set(|settings| settings.kill = (settings.kill.0 + 1, Cut::Reset));
    }

    /// Closes the connections that are open.
    pub fn close_all(&self) {
        self.set(|settings| settings.kill = (settings.kill.0 + 1, Cut::Close));
    }

    /// Cuts each connection that is opened from now on when exactly `bytes` have passed in one direction.
    pub fn cut_after(&self, direction: Direction, bytes: u64, cut: Cut) {
        self.set(|settings| settings.cut_after = Some((direction, bytes, cut)));
    }

    /// Cuts the first connection, open or to come, on which `pattern` passes in one direction. Once; an earlier order
    /// that has not fired is replaced.
    pub fn cut_when(&self, direction: Direction, pattern: impl Into<Vec<u8>>, moment: Moment, cut: Cut) {
        let trigger = Trigger { direction, pattern: pattern.into(), moment, cut };
        *self.control.trigger.lock().unwrap_or_else(PoisonError::into_inner) = Some(trigger);
    }

    /// Takes all faults back. What is held goes on; what was cut stays cut.
    pub fn heal(&self) {
        *self.control.trigger.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.set(|settings| *settings = Settings { kill: settings.kill, ..Settings::harmless(settings.target) });
    }

    /// Connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.control.open.load(Ordering::Acquire)
    }

    /// Connections that were cut, refused ones among them.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        *self.control.cuts.borrow()
    }

    /// Waits until at least so many connections have been cut since the start; false if not within `deadline`.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_for_cuts(&self, count: u64, deadline: Duration) -> bool {
        let mut cuts = self.control.cuts.subscribe();
        matches!(tokio::time::timeout(deadline, cuts.wait_for(|&cuts| cuts >= count)).await, Ok(Ok(_)))
    }

    fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.control.settings.send_modify(change);
    }
}

impl Settings {
    const fn harmless(target: SocketAddr) -> Self {
        Self {
            target,
            latency: Duration::ZERO,
            bytes_per_second: None,
            black_hole: false,
            down: false,
            cut_after: None,
            kill: (0, Cut::Reset),
        }
    }
}

impl Control {
    fn settings(&self) -> Settings {
        *self.settings.borrow()
    }

    /// Takes the trigger if its pattern is in `window`, the bytes that pass and enough of those before.
    fn triggered(&self, direction: Direction, window: &[u8]) -> Option<Trigger> {
        let mut trigger = self.trigger.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = |trigger: &Trigger| {
            trigger.direction == direction && memchr::memmem::find(window, &trigger.pattern).is_some()
        };
        if trigger.as_ref().is_some_and(hit) { trigger.take() } else { None }
    }

    /// How many bytes of the past a pattern may reach back into.
    fn reach(&self) -> usize {
        let trigger = self.trigger.lock().unwrap_or_else(PoisonError::into_inner);
        trigger.as_ref().map_or(0, |trigger| trigger.pattern.len().saturating_sub(1))
    }
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(links.spawn(link::relay(client, Arc::clone(&control)))),
                // Out of descriptors: what is there goes on, the next one may fit again.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = links.join_next() => {}
        }
    }
}
