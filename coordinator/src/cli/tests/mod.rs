//! The command line against a real API over loopback, with a played driver behind it.

mod audit;
mod deploy;
mod grammar;
mod lists;
mod plan;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::Parser;

use super::args::Cli;
use super::exit::Exit;
use super::terminal::Terminal;
use crate::api::fake::{Fake, TOKEN};
use crate::api::sample;
use crate::api::types::{Action, Answer, Status};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Exit, standard output, standard error.
type Ran = (Exit, String, String);

async fn shoal_until(url: &str, token: &str, args: &[&str], interrupted: impl Future<Output = ()>) -> Ran {
    let cli = Cli::try_parse_from([&["shoal", "--coordinator", url], args].concat()).unwrap();
    let (out, err) = (Written::default(), Written::default());
    let mut terminal = Terminal::new(&cli.global, Box::new(out.clone()), Box::new(err.clone()));
    let token = Some(token.to_owned()).filter(|token| !token.is_empty());
    let exit = super::run(cli, token, &mut terminal, interrupted).await;
    (exit, out.text(), err.text().replace(url, "http://coordinator"))
}

async fn shoal(fake: &Fake, args: &[&str]) -> Ran {
    shoal_until(&fake.url, TOKEN, args, std::future::pending()).await
}

fn all_statuses() -> Vec<Status> {
    vec![sample::acquiring(), sample::paused(), sample::succeeded()]
}

fn deployment_file(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("deploy.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
