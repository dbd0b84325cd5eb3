//! One proxied connection: two pumps, each a reader and a writer with a queue between them.

use super::{Control, Cut, Direction, Moment, Settings};
use crate::clock;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use std::{
    io,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time,
};

/// Bytes read at once.
const READ_SIZE: usize = 16 << 10;
/// Pieces that wait between a reader and its writer.
const QUEUE: usize = 64;
/// How often a second a throttled writer writes.
const THROTTLE_STEPS: u64 = 50;

/// Bytes on their way, and what happens when they have gone.
struct Piece {
    due: Instant,
    bytes: Bytes,
    cut: Option<Cut>,
}

/// Why a pump stopped before the end.
enum Broken {
    Cut(Cut),
    Io,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// One direction of a connection.
struct Pump<'a> {
    direction: Direction,
    control: &'a Control,
    settings: watch::Receiver<Settings>,
    /// Set when the next bytes of this direction are an answer that must be swallowed.
    answer: &'a OnceLock<(Direction, Cut)>,
    cut_after: Option<(u64, Cut)>,
}

/// Relays one connection until it ends or is cut.
pub(super) async fn relay(client: TcpStream, control: Arc<Control>) {
    let mut settings = control.settings.subscribe();
    let now = control.settings();
    if now.down {
        return cut(&control, Cut::Reset, [Some(client), None]);
    }
    let connected = async {
        client.set_nodelay(true)?;
        let server = TcpStream::connect(now.target).await?;
        server.set_nodelay(true)?;
        io::Result::Ok(server)
    };
    let Ok(server) = connected.await else { return reset(&client) };
    control.open.fetch_add(1, Ordering::AcqRel);
    let (mut client, mut server) = (client, server);
    let ended = tokio::select! {
        ended = run(&mut client, &mut server, &control, now) => ended,
        how = killed(&mut settings, now.kill.0) => Err(Broken::Cut(how)),
    };
    control.open.fetch_sub(1, Ordering::AcqRel);
    match ended {
        Ok(()) => {}
        Err(Broken::Io) => [&client, &server].into_iter().for_each(reset),
        Err(Broken::Cut(how)) => cut(&control, how, [Some(client), Some(server)]),
    }
}

async fn run(client: &mut TcpStream, server: &mut TcpStream, control: &Control, now: Settings) -> Result<(), Broken> {
    let answer = OnceLock::new();
    let pump = |direction| Pump {
        direction,
        control,
        settings: control.settings.subscribe(),
        answer: &answer,
        cut_after: now.cut_after.filter(|cut| cut.0 == direction).map(|(_, bytes, cut)| (bytes, cut)),
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = pump(Direction::Up).run(from_client, to_server);
    let down = pump(Direction::Down).run(from_server, to_client);
    tokio::try_join!(up, down).map(drop)
}

async fn killed(settings: &mut watch::Receiver<Settings>, generation: u64) -> Cut {
    match settings.wait_for(|settings| settings.kill.0 != generation).await {
        Ok(settings) => settings.kill.1,
        // The proxy is being dropped.
        Err(_) => Cut::Close,
    }
}

impl Pump<'_> {
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Broken> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let settings = self.settings.clone();
        tokio::try_join!(self.read(from, sender), write(to, queue, settings)).map(drop)
    }

    async fn read(self, mut from: ReadHalf<'_>, queue: mpsc::Sender<Piece>) -> Result<(), Broken> {
        let mut window = BytesMut::new();
        let mut passed = 0;
        loop {
            let mut bytes = BytesMut::with_capacity(READ_SIZE);
            let length = from.read_buf(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            if let Some((_, how)) = self.answer.get().filter(|answer| answer.0 == self.direction) {
                return Err(Broken::Cut(*how));
            }
            let mut cut = self.limit(&mut bytes, passed);
            passed += length as u64;
            window.extend_from_slice(&bytes);
            let trigger = self.control.triggered(self.direction, &window);
            let reach = self.control.reach().min(window.len());
            drop(window.split_to(window.len() - reach));
            match trigger.map(|trigger| (trigger.moment, trigger.cut)) {
                Some((Moment::Before, how)) => return Err(Broken::Cut(how)),
                Some((Moment::After, how)) => cut = Some(how),
                // The first such order on this connection stands.
                Some((Moment::Answered, how)) => drop(self.answer.set((self.direction.opposite(), how))),
                None => {}
            }
            let due = clock::now() + self.settings.borrow().latency;
            let last = cut.is_some();
            if queue.send(Piece { due, bytes: bytes.freeze(), cut }).await.is_err() || last {
                // The writer has failed, or cuts when it has written this: it ends both.
                return Ok(());
            }
        }
    }

    /// Shortens `bytes` to what may still pass.
    fn limit(&self, bytes: &mut BytesMut, passed: u64) -> Option<Cut> {
        let (most, cut) = self.cut_after?;
        let room = most.saturating_sub(passed);
        if room > bytes.len() as u64 {
            return None;
        }
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        Some(cut)
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut queue: mpsc::Receiver<Piece>,
    mut settings: watch::Receiver<Settings>,
) -> Result<(), Broken> {
    while let Some(piece) = queue.recv().await {
        time::sleep_until(piece.due.into()).await;
        let mut rest = piece.bytes;
        while !rest.is_empty() {
            open(&mut settings).await;
            let rate = settings.borrow().bytes_per_second;
            let step = rate.map_or(rest.len() as u64, |rate| (rate / THROTTLE_STEPS).max(1));
            let now = rest.split_to(usize::try_from(step).unwrap_or(usize::MAX).min(rest.len()));
            if let Some(rate) = rate {
                time::sleep(Duration::from_micros(now.len() as u64 * 1_000_000 / rate)).await;
            }
            to.write_all(&now).await?;
        }
        open(&mut settings).await;
        if let Some(how) = piece.cut {
            return Err(Broken::Cut(how));
        }
    }
    open(&mut settings).await;
    // The peer may have gone already; then the other direction learns it.
    to.shutdown().await.ok();
    Ok(())
}

/// Waits while nothing may pass. An error means that the proxy is being dropped, which ends this anyway.
async fn open(settings: &mut watch::Receiver<Settings>) {
    settings.wait_for(|settings| !settings.black_hole).await.ok();
}

/// Cuts, then counts: whoever waits for the count finds the connection gone.
fn cut(control: &Control, how: Cut, sockets: [Option<TcpStream>; 2]) {
    for socket in sockets.into_iter().flatten() {
        if how == Cut::Reset {
            reset(&socket);
        }
    }
    control.cuts.send_modify(|cuts| *cuts += 1);
}

/// Makes a reset of the close that follows.
fn reset(socket: &TcpStream) {
    // If the option can't be set the socket is broken already.
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}
