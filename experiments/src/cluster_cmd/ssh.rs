//! Commands on other hosts, by the system's ssh with the user's keys.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use medes_real::cluster::Ssh;

/// How long a host may take to answer the connection, seconds, if the cluster file's options do not say.
const CONNECT_SECONDS: u32 = 10;

/// What a command on a host gave.
#[derive(Clone, Debug)]
pub struct Done {
    /// Exit status; 255 is ssh's own for a host that cannot be reached.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Why a command on a host did not end well.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// ssh itself cannot be started.
    #[error("cannot start ssh: {0}; install openssh-client")]
    NoSsh(std::io::Error),
    /// The host cannot be reached.
    #[error("{host} cannot be reached by ssh: {reason}; try `ssh {host}` by hand")]
    Unreachable {
        /// The host.
        host: String,
        /// What ssh said.
        reason: String,
    },
    /// It took too long.
    #[error("{host}: {what} took longer than {seconds} s")]
    Late {
        /// The host.
        host: String,
        /// What was done.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// It ended with another status than 0.
    #[error("{host}: {what} ended with status {status}: {said}")]
    Failed {
        /// The host.
        host: String,
        /// What was done.
        what: String,
        /// Its exit status.
        status: i32,
        /// What it said.
        said: String,
    },
    /// The connection broke, or a pipe to ssh did.
    #[error("{host}: {what}: {source}")]
    Io {
        /// The host.
        host: String,
        /// What was done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A host that commands are run on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    arguments: Vec<String>,
}

impl Host {
    /// A host reached as `ssh` says.
    pub fn new(name: &str, ssh: &Ssh) -> Self {
        // BatchMode: a question (password, unknown key) would wait for ever behind a progress line.
        let mut arguments = vec!["-o".to_owned(), "BatchMode=yes".to_owned()];
        // Of an option given twice ssh takes the first: the user's.
        for option in &ssh.options {
            arguments.extend(["-o".to_owned(), option.clone()]);
        }
        arguments.extend(["-o".to_owned(), format!("ConnectTimeout={CONNECT_SECONDS}")]);
        if let Some(port) = ssh.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        if let Some(key) = &ssh.key {
            arguments.extend(["-i".to_owned(), home(key).display().to_string()]);
        }
        arguments.push(match &ssh.user {
            Some(user) => format!("{user}@{name}"),
            None => name.to_owned(),
        });
        Self { name: name.to_owned(), arguments }
    }

    /// Runs a shell script there and gives what it said, whatever its status.
    ///
    /// # Errors
    /// No ssh, no host, or not within `limit`.
    pub fn script(&self, what: &str, script: &str, limit: Duration) -> Result<Done, SshError> {
        self.run(what, "sh -s", script.as_bytes(), limit)
    }

    /// As [`Self::script`]; another status than 0 is an error.
    ///
    /// # Errors
    /// As [`Self::script`], and the script's own.
    pub fn must(&self, what: &str, script: &str, limit: Duration) -> Result<String, SshError> {
        self.ended_well(what, self.script(what, script, limit)?)
    }

    /// Writes a file there, whole or not at all.
    ///
    /// # Errors
    /// As [`Self::must`].
    pub fn put(&self, bytes: &[u8], to: &str, mode: &str, limit: Duration) -> Result<(), SshError> {
        let what = format!("writing {to}");
        let (file, part) = (quoted(to), quoted(&format!("{to}.part")));
        let command = format!("umask 077 && cat >{part} && chmod {mode} {part} && mv -f {part} {file}");
        let done = self.run(&what, &command, bytes, limit)?;
        self.ended_well(&what, done).map(|_| ())
    }

    fn ended_well(&self, what: &str, done: Done) -> Result<String, SshError> {
        if done.status == 0 {
            return Ok(done.out);
        }
        let said = if done.err.trim().is_empty() { done.out } else { done.err };
        let said = said.trim().lines().last().unwrap_or("nothing was said").to_owned();
        Err(SshError::Failed { host: self.name.clone(), what: what.to_owned(), status: done.status, said })
    }

    fn run(&self, what: &str, command: &str, input: &[u8], limit: Duration) -> Result<Done, SshError> {
        let io = |source| SshError::Io { host: self.name.clone(), what: what.to_owned(), source };
        let mut child = Command::new("ssh")
            .args(&self.arguments)
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(SshError::NoSsh)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let deadline = Instant::now() + limit;
        let (status, out, err) = std::thread::scope(|scope| {
            let writer = scope.spawn(move || stdin.map_or(Ok(()), |mut pipe| pipe.write_all(input)));
            let out = scope.spawn(move || text(stdout));
            let err = scope.spawn(move || text(stderr));
            let status = wait(&mut child, deadline);
            // A host that ends the command early closes the pipe: its status says why, the broken pipe does not.
            let _ = writer.join();
            (status, out.join().unwrap_or_default(), err.join().unwrap_or_default())
        });
        match status.map_err(io)? {
            None => {
                let (host, what) = (self.name.clone(), what.to_owned());
                Err(SshError::Late { host, what, seconds: limit.as_secs() })
            }
            Some(255) => {
                let reason = err.trim().lines().last().unwrap_or("it said nothing").trim().to_owned();
                Err(SshError::Unreachable { host: self.name.clone(), reason })
            }
            Some(status) => Ok(Done { status, out, err }),
        }
    }
}

/// Everything a pipe gives, as text.
fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is what there is to show.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit status, or `None` when the child had to be ended at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<i32>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or(255)));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A word as the shell reads it back.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `~/` at the front is the user's home.
pub fn home(path: &std::path::Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\"] {
            let out = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word);
        }
    }

    #[test]
    fn options_come_before_the_host() {
        let ssh = Ssh { user: Some("me".into()), port: Some(2222), options: vec!["A=b".into()], ..Ssh::default() };
        let host = Host::new("node1", &ssh);
        assert_eq!(host.arguments.last().unwrap(), "me@node1");
        let all = host.arguments.join(" ");
        assert!(all.contains("-p 2222") && all.contains("BatchMode=yes"));
        assert!(all.find("-o A=b").unwrap() < all.find("ConnectTimeout").unwrap(), "the user's options win");
    }
}
