//! Real servers of feeds, each a process with its files in a folder of its own, on loopback until it is dropped.
//!
//! `.ci/run servers` installs them all. Where one is missing, a test says so in one line ([`installed`]) and leaves it at that.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Process, until};

/// How long a server may take to listen: those in Python and JavaScript load for seconds.
const SOON: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    _process: Process,
    folder: TempDir,
    port: u16,
}

/// Where the program `name` is: in the search path, or below the folder `SHOAL_SERVERS` where `.ci/run` puts what comes
/// from other registries than the system's. Says so if it is nowhere.
pub fn installed(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push(PathBuf::from("/usr/sbin"));
    if let Some(own) = std::env::var_os("SHOAL_SERVERS").map(PathBuf::from) {
        folders.extend([own.join("python/bin"), own.join("node_modules/.bin")]);
    }
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("left out: {name} is not installed; `.ci/run servers` installs what these tests need");
    }
    found
}

/// Ports that are free, as are those 10,000 above them, where some servers speak among themselves.
pub fn ports(count: usize) -> Vec<u16> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    // Not below 20,000, where services have theirs, and by process, so that tests at once do not meet.
    let start = 20_000 + u16::try_from(std::process::id() % 500).expect("it is below 500") * 20;
    let found: Vec<u16> = (start..start + 20).filter(|port| free(port) && free(&(port + 10_000))).take(count).collect();
    assert_eq!(found.len(), count, "too few ports are free");
    found
}

impl Server {
    /// Starts `program`, which listens on a port that is free. Its arguments and files come from `prepare`, which is told
    /// the folder and the port.
    pub fn start(program: &Path, prepare: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("loopback has a free port").port();
        let args = prepare(folder.path(), port);
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.args(args).current_dir(folder.path());
        let mut process = Process::start(&name, &mut command, &folder.path().join("log"));
        until(&format!("{name} listens"), SOON, || {
            assert!(process.runs(), "{name} has ended:\n{}", process.log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { _process: process, folder, port }
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// One of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// nginx, which serves the files below `files/`, with all of `server` added to its configuration.
    pub fn nginx(server: &str) -> Option<Self> {
        let program = installed("nginx")?;
        Some(Self::start(&program, |folder, port| {
            fs::create_dir_all(folder.join("files")).expect("the folder can be written");
            let folder = folder.display();
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths: String = paths.iter().map(|name| format!("{name}_temp_path {folder}/{name};\n")).collect();
            let user = if is_root() { "user root;" } else { "" };
            let config = format!(
                "daemon off; master_process off; pid {folder}/pid; error_log stderr; {user}\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; {paths} default_type application/octet-stream;\n\
                 server {{ listen 127.0.0.1:{port}; root {folder}/files; {server} }} }}\n"
            );
            fs::write(format!("{folder}/nginx.conf"), config).expect("the folder can be written");
            ["-c", &format!("{folder}/nginx.conf"), "-e", "stderr", "-p", &folder.to_string()].map(str::to_owned).into()
        }))
    }

    /// docker-registry, with `more` added to its configuration and `files` to its folder, which `more` calls `FOLDER`. It speaks TLS
    /// if there are `tls.pem` and `tls.key`, and serves what is in the folder `blobs` or one of its own.
    pub fn registry(more: &str, files: &[(&str, String)], blobs: Option<&Path>) -> Option<Self> {
        let program = installed("docker-registry")?;
        Some(Self::start(&program, |folder, port| {
            for (name, text) in files {
                fs::write(folder.join(name), text).expect("the folder can be written");
            }
            let shown = folder.display();
            let blobs = blobs.map_or_else(|| folder.join("blobs"), Path::to_owned);
            let tls = match files.iter().any(|(name, _)| *name == "tls.key") {
                true => format!(", tls: {{ certificate: {shown}/tls.pem, key: {shown}/tls.key }}"),
                false => String::new(),
            };
            let config = format!(
                "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
                 http: {{ addr: '127.0.0.1:{port}'{tls} }}\n{}\n",
                blobs.display(),
                more.replace("FOLDER", &shown.to_string())
            );
            fs::write(folder.join("config.yml"), config).expect("the folder can be written");
            vec!["serve".to_owned(), folder.join("config.yml").display().to_string()]
        }))
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("every system has `id`");
    id.stdout.trim_ascii() == b"0"
}
