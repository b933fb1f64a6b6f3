//! `[LEVEL][2021-02-01T15:03:30+0800][target:line][thread#N]message`, and `[node#N]` before the message on threads that belong
//! to one node of several in this process.

use std::cell::Cell;
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes one event as one line.
#[derive(Debug)]
pub(super) struct Line {
    color: bool,
}

impl Line {
    pub(super) fn new(color: bool) -> Self {
        Line { color }
    }
}

/// Name of a level and its ANSI colour.
fn level(level: Level) -> (&'static str, u8) {
    match level {
        Level::ERROR => ("ERROR", 31),
        Level::WARN => ("WARNING", 33),
        Level::INFO => ("INFO", 32),
        Level::DEBUG => ("DEBUG", 36),
        Level::TRACE => ("TRACE", 35),
    }
}

thread_local! {
    /// The node this thread belongs to, if there are several.
    static NODE: Cell<Option<u32>> = const { Cell::new(None) };
    /// The number inside `ThreadId(7)`; there is no stable way to ask for it.
    static THREAD: u64 = {
        let text = format!("{:?}", std::thread::current().id());
        text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
    };
}

/// From now on lines of this thread carry the number of a node.
pub(super) fn of_node(node: u32) {
    NODE.set(Some(node));
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let (name, ansi) = level(*metadata.level());
        if self.color {
            write!(writer, "[\x1b[{ansi}m{name}\x1b[0m]")?;
        } else {
            write!(writer, "[{name}]")?;
        }
        let time = chrono::Local::now().format("%Y-%m-%dT%H:%M:%S%z");
        let line = metadata.line().unwrap_or_default();
        write!(writer, "[{time}][{}:{line}][thread#{}]", metadata.target(), THREAD.with(|id| *id))?;
        if let Some(node) = NODE.get() {
            write!(writer, "[node#{node}]")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(color: bool) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Line::new(color))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(shard = 7, "it is {}", "so"));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_have_the_form_that_tools_for_published_servers_parse() {
        let line = logged(false);
        let parts: Vec<&str> = line.trim_end().splitn(5, ['[', ']']).collect();
        assert_eq!((parts[0], parts[1]), ("", "WARNING"), "{line}");
        let time = parts[3];
        assert!(chrono::DateTime::parse_from_str(time, "%Y-%m-%dT%H:%M:%S%z").is_ok(), "{line}");
        let rest = parts[4];
        assert!(rest.starts_with("[hstream_server::log_output::line::tests:"), "{line}");
        let (place, message) = rest.split_once("][thread#").unwrap();
        assert!(place.rsplit_once(':').unwrap().1.parse::<u32>().is_ok(), "{line}");
        let (thread, message) = message.split_once(']').unwrap();
        assert!(thread.parse::<u64>().unwrap() > 0, "{line}");
        assert_eq!(message, "it is so shard=7");
        assert!(line.ends_with('\n'));
    }

    #[test]
    fn a_thread_of_one_node_among_several_says_which() {
        let line = std::thread::spawn(|| {
            of_node(12);
            logged(false)
        });
        let line = line.join().unwrap();
        assert!(line.trim_end().ends_with("][node#12]it is so shard=7"), "{line}");
        assert!(!logged(false).contains("node#"));
    }

    #[test]
    fn only_the_level_is_coloured() {
        let line = logged(true);
        assert!(line.starts_with("[\u{1b}[33mWARNING\u{1b}[0m]["), "{line:?}");
        assert_eq!(line.matches('\u{1b}').count(), 2, "{line:?}");
    }
}
