//! The live view: threads that wait for keys, signals and the node process, and one that draws.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};

use super::draw::Screen;
use super::look;
use super::rates::between;
use crate::admin::view::Status;

/// What there is to react to.
enum Event {
    Input(Input),
    /// A look at the node process, or why there was none.
    Look(Result<Box<Status>, String>),
    /// A signal, or a terminal that is gone.
    End,
}

/// Shows rates until somebody quits. The terminal is as it was, however this ends.
///
/// # Errors
/// When the terminal cannot be used.
pub(super) fn run(socket: &Path, interval: Duration, first: Box<Status>) -> io::Result<()> {
    let (events, queue) = channel();
    signals(events.clone())?;
    let mut terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
    let shown = start(socket.to_path_buf(), interval, events)
        .and_then(|looker| show(&mut terminal, &queue, &looker, first));
    drop(terminal); // Shows the cursor.
    ratatui::restore();
    shown
}

fn start(
    socket: PathBuf,
    interval: Duration,
    events: Sender<Event>,
) -> io::Result<thread::JoinHandle<()>> {
    let keys = events.clone();
    thread::Builder::new()
        .name("weft-top-keys".into())
        .spawn(move || {
            // Bound: until the terminal is gone, or nobody listens.
            loop {
                let event = event::read().map_or(Event::End, Event::Input);
                let end = matches!(event, Event::End);
                if keys.send(event).is_err() || end {
                    return;
                }
            }
        })?;
    thread::Builder::new()
        .name("weft-top-looks".into())
        .spawn(move || {
            let mut due = Instant::now();
            // Bound: until nobody listens.
            loop {
                due = (due + interval).max(Instant::now()); // A look that takes long delays those behind it.
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let looked = look(&socket).map_err(|failure| failure.reason);
                if events.send(Event::Look(looked)).is_err() {
                    return;
                }
            }
        })
}

/// SIGTERM, SIGINT and SIGHUP: the default would leave the terminal raw.
fn signals(events: Sender<Event>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let mut ends = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    drop(entered);
    thread::Builder::new()
        .name("weft-top-end".into())
        .spawn(move || {
            let [terminate, interrupt, hangup] = &mut ends;
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            let _ = events.send(Event::End); // Nobody listens any more if it has ended already.
        })?;
    Ok(())
}

fn show(
    terminal: &mut DefaultTerminal,
    queue: &Receiver<Event>,
    looker: &thread::JoinHandle<()>,
    first: Box<Status>,
) -> io::Result<()> {
    let mut screen = Screen::default();
    let mut before = Some(first);
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        match queue.recv() {
            Ok(Event::Input(Input::Key(key))) if key.kind != KeyEventKind::Release => {
                if !screen.press(key) {
                    return Ok(());
                }
            }
            Ok(Event::Input(_)) => {} // A resize: drawn anew.
            Ok(Event::Look(Ok(now))) => {
                match before.as_ref().and_then(|before| between(before, &now)) {
                    Some(rates) => screen.take(rates),
                    None => screen.trouble = None, // Another process: its rates come with the next look.
                }
                before = Some(now);
            }
            Ok(Event::Look(Err(reason))) => {
                screen.trouble = Some(reason);
                before = None;
            }
            Ok(Event::End) | Err(_) => return Ok(()),
        }
        if looker.is_finished() {
            return Err(io::Error::other("a thread of its own has ended"));
        }
    }
}
