//! The screen of `weft top`: what is on it, and what keys do.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Margin, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::columns::{Column, Order};
use super::plain::{WORKER_TITLES, heading, lost, worker_row};
use super::rates::Rates;

const KEYS: &str = "q quit   p pause   < > sort by   r reverse   arrows scroll   ? help";

const HELP: &str = "\
FLOWS       flows of clients there are; of stage http: connections
NEW/S       new ones a second
PACKETS/S   both ways; of stage http: none
REQUESTS/S  requests that ended
BYTES/S     both ways: of IP packets; of stage http: of bodies
ERRORS      requests answered with 5xx, or not at all
P50, P99    what half, and 99 of 100, of the requests took at most

BUSY        CPU time of a worker's thread (poll = \"spin\": always all)
IN/S OUT/S  packets that a worker took, and sent
DROPS/S     and REASONS, the most frequent ones

q, Esc, Ctrl-C  quit          p, space  pause
<, >            sort by       r         reverse
arrows, PgUp, PgDn, Home, End scroll

Any key closes this.";

/// What is shown, and how.
#[derive(Debug, Default)]
pub struct Screen {
    /// The latest rates, or those of when it was paused.
    pub rates: Option<Rates>,
    /// What keeps rates from coming.
    pub trouble: Option<String>,
    order: Order,
    paused: bool,
    help: bool,
    services: TableState,
    page: u16,
}

impl Screen {
    /// Takes new rates, unless it is paused.
    pub fn take(&mut self, mut rates: Rates) {
        self.trouble = None;
        if !self.paused {
            self.order.sort(&mut rates.services);
            self.rates = Some(rates);
        }
    }

    /// Does what a key says. False: it says to quit.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return false;
        }
        if std::mem::take(&mut self.help) {
            return true;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('<') | KeyCode::Left => self.sort(|order| order.turn(-1)),
            KeyCode::Char('>') | KeyCode::Right => self.sort(|order| order.turn(1)),
            KeyCode::Char('r') => self.sort(|order| order.reversed = !order.reversed),
            KeyCode::Up => self.scroll(-1),
            KeyCode::Down => self.scroll(1),
            KeyCode::PageUp => self.scroll(-isize::try_from(self.page).unwrap_or(1)),
            KeyCode::PageDown => self.scroll(isize::try_from(self.page).unwrap_or(1)),
            KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::End => self.scroll(isize::MAX),
            _ => {}
        }
        true
    }

    fn sort(&mut self, change: impl FnOnce(&mut Order)) {
        change(&mut self.order);
        if let Some(rates) = &mut self.rates {
            self.order.sort(&mut rates.services);
        }
    }

    fn scroll(&mut self, by: isize) {
        let all = self.rates.as_ref().map_or(0, |rates| rates.services.len());
        let last = all.saturating_sub(usize::from(self.page));
        let offset = self.services.offset().saturating_add_signed(by).min(last);
        *self.services.offset_mut() = offset;
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let workers = self.rates.as_ref().map_or(0, |rates| rates.workers.len());
        // Workers have at most a third of the screen; what services there are is seen by scrolling.
        let most = (frame.area().height / 3).max(2);
        let below = u16::try_from(workers + 1).unwrap_or(most).min(most);
        let [title, state, services, workers, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(2),
            Constraint::Min(2),
            Constraint::Length(below + 1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.page = services.height.saturating_sub(1);
        self.scroll(0); // The screen may be larger than it was, or the services fewer.
        frame.render_widget(Paragraph::new(self.state()), state);
        frame.render_widget(Line::from(KEYS).style(Modifier::DIM), keys);
        if let Some(rates) = &self.rates {
            let bold = Modifier::BOLD;
            frame.render_widget(Line::from(heading(rates)).style(bold), title);
            let table = services_table(rates, self.order, services.width);
            frame.render_stateful_widget(table, services, &mut self.services);
            let lower = Rect {
                y: workers.y + 1,
                height: below,
                ..workers
            };
            frame.render_widget(workers_table(rates), lower);
        }
        if self.help {
            help(frame);
        }
    }

    fn state(&self) -> Line<'_> {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        match (&self.trouble, self.paused, &self.rates) {
            (Some(trouble), _, _) => Line::from(trouble.as_str()).style(style),
            (None, true, _) => Line::from("paused: p goes on").style(style),
            (None, false, None) => Line::from("waiting for the second look"),
            (None, false, Some(rates)) => lost(rates).map_or_else(Line::default, Line::from),
        }
    }
}

fn services_table(rates: &Rates, order: Order, width: u16) -> Table<'static> {
    let cells = |column: Column| {
        let cells = rates.services.iter();
        cells.map(move |service| column.cell(service))
    };
    let widths = Column::ALL.map(|column| {
        let longest = cells(column).map(|cell| cell.chars().count()).max();
        // One place more, for the mark of the order.
        let title = column.title().len() + 1;
        u16::try_from(longest.unwrap_or(0).max(title)).unwrap_or(u16::MAX)
    });
    // A long name gives way to numbers.
    let numbers: u16 = widths[1..].iter().map(|width| width + 1).sum();
    let constraints = Column::ALL.iter().zip(widths).map(|(column, wanted)| {
        Constraint::Length(match column {
            Column::Service => wanted.min(width.saturating_sub(numbers).max(12)),
            _ => wanted,
        })
    });
    let title = |column: Column| {
        let mark = match (column == order.column, order.reversed) {
            (true, false) => "\u{25be}",
            (true, true) => "\u{25b4}",
            (false, _) => "",
        };
        cell(format!("{}{mark}", column.title()), column)
    };
    let rows = rates.services.iter().map(|service| {
        let row = Column::ALL.map(|column| cell(column.cell(service), column));
        Row::new(row)
    });
    Table::new(rows, constraints).header(Row::new(Column::ALL.map(title)).style(Modifier::REVERSED))
}

fn cell(text: String, column: Column) -> Cell<'static> {
    let alignment = match column.is_text() {
        true => Alignment::Left,
        false => Alignment::Right,
    };
    Cell::new(Text::from(text).alignment(alignment))
}

fn workers_table(rates: &Rates) -> Table<'static> {
    let rows = rates
        .workers
        .iter()
        .map(|worker| Row::new(worker_row(worker)));
    let widths = [6, 4, 5, 8, 8, 8, 18].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    Table::new(rows, widths).header(Row::new(WORKER_TITLES).style(Modifier::REVERSED))
}

fn help(frame: &mut Frame<'_>) {
    let lines = HELP.lines().count() as u16 + 2;
    let area = frame.area().inner(Margin::new(2, 1));
    let area = Rect {
        height: lines.min(area.height),
        width: 72.min(area.width),
        ..area
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" weft top ");
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}
