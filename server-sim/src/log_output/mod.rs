//! The log as operators of published servers know it: one line per event, on stderr or in rotating files.

mod line;
mod rotation;

use crate::config::LogSettings;
use line::Line;
use rotation::RotatingFile;
use std::io::IsTerminal as _;
use std::sync::Mutex;

/// Lines that this thread logs carry the number of a node from now on: for a process that runs several.
pub(crate) fn of_node(node: u32) {
    line::of_node(node);
}

/// Sets the log up for the whole process.
///
/// # Errors
/// One sentence about the log file that cannot be opened.
pub fn start(settings: &LogSettings) -> Result<(), String> {
    // Without this the fields behind a message would have colours of their own.
    let builder = tracing_subscriber::fmt().with_ansi(false).with_max_level(settings.level);
    match &settings.file {
        None => {
            let color = settings.color.unwrap_or_else(|| std::io::stderr().is_terminal());
            builder.event_format(Line::new(color)).with_writer(std::io::stderr).init();
        }
        Some(file) => {
            let color = settings.color.unwrap_or(false);
            let files = RotatingFile::open(file).map_err(|error| {
                format!("cannot write the log file --file-log-path {}: {error}", file.path.display())
            })?;
            builder.event_format(Line::new(color)).with_writer(Mutex::new(files)).init();
        }
    }
    Ok(())
}
