//! `man`: the manual page, made from the command line's own words.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Args, write_out};

/// What the process can be told while it runs; clap does not know of it.
const SIGNALS: [(&str, &str); 3] = [
    ("SIGTERM, SIGINT", "finish what is under way, close WebSockets with 1001, end with 0 within server.drain_timeout"),
    ("SIGHUP", "look at the configuration file now"),
    (
        "SIGUSR2",
        "start the executable again, which may be a new version, and hand the listening sockets over to it; this process \
         drains and ends. If the new one cannot serve, this one goes on",
    ),
];

const CODES: [(&str, &str); 3] = [
    ("0", "an orderly end"),
    ("1", "the process cannot start although its file is good: a port is taken, another gateway has the store"),
    ("64", "the configuration cannot be used; every problem is on standard error"),
];

const FILES: [(&str, &str); 4] = [
    ("/etc/export-gateway/gateway.toml", "who exports where; live within a second of being saved"),
    ("/var/lib/export-gateway/jobs.db", "which backend owns which job"),
    ("/var/log/export-gateway/access.log", "a line per request, where log.access names it; else standard output"),
    ("/usr/share/export-gateway/gateway.schema.json", "what schema prints, for editors"),
];

/// Writes the page in roff.
pub fn run() -> ExitCode {
    match page() {
        Ok(page) => write_out(&page),
        Err(_) => ExitCode::FAILURE,
    }
}

fn page() -> io::Result<String> {
    let mut page = Vec::new();
    Man::new(Args::command()).render(&mut page)?;
    let mut more = Roff::new();
    for (title, entries) in [("SIGNALS", &SIGNALS[..]), ("EXIT STATUS", &CODES), ("FILES", &FILES)] {
        more.control("SH", [title]);
        for (term, text) in entries {
            more.control("TP", []).text([bold(*term)]).text([roman(*text)]);
        }
    }
    more.to_writer(&mut page)?;
    // The examples are a text of their own lines.
    let page = String::from_utf8_lossy(&page).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n");
    Ok(page.replace(".SH VERSION\n", ".fi\n.SH VERSION\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_signal_and_exit_code() {
        let page = page().unwrap();
        for word in
            [".TH export", ".SH EXAMPLES\n.nf", ".fi\n", "healthcheck", "explain", "SIGUSR2", "64", "gateway.toml"]
        {
            assert!(page.contains(word), "{word}");
        }
    }
}
