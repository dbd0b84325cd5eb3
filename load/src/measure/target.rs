//! What is measured.

use super::{process::Family, token};
use crate::client::Client;
use std::{io, net::SocketAddr};

/// An address, the processes behind it, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// What reports call it: `direct`, `nginx`, `service`, or a variant of the service.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its processes.
    pub family: Family,
    /// Signs tokens that it takes.
    secret: String,
    /// When they are issued: once, as a caller keeps its token, and the service what it knows of it.
    issued: u64,
}

impl Target {
    /// Reads `NAME=ADDR,PID`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where it is anything else, [`io::ErrorKind::NotFound`] without such a process.
    pub fn parse(text: &str, secret: &str) -> io::Result<Self> {
        let unfit = || io::Error::new(io::ErrorKind::InvalidInput, format!("{text} is no NAME=ADDR,PID"));
        let (name, rest) = text.split_once('=').ok_or_else(unfit)?;
        let (addr, pid) = rest.split_once(',').ok_or_else(unfit)?;
        let addr = addr.parse().map_err(|_unfit| unfit())?;
        let family = Family::of(pid.parse().map_err(|_unfit| unfit())?)?;
        Ok(Self { name: name.to_owned(), addr, family, secret: secret.to_owned(), issued: token::now() })
    }

    /// A client of it with a token of this user. The mock and nginx are sent the same bytes.
    ///
    /// # Errors
    /// The secret is unusable.
    pub fn client(&self, user: &str) -> io::Result<Client> {
        Ok(Client::new(self.addr).bearer(&self.token(user)?))
    }

    /// A token of this user, the same each time.
    ///
    /// # Errors
    /// The secret is unusable.
    pub fn token(&self, user: &str) -> io::Result<String> {
        token::issue(&self.secret, user, self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read() {
        let target = Target::parse(&format!("nginx=127.0.0.1:80,{}", std::process::id()), "secret").unwrap();
        assert_eq!((target.name.as_str(), target.addr.port()), ("nginx", 80));
        for unfit in ["nginx", "nginx=127.0.0.1:80", "nginx=here,1", "nginx=127.0.0.1:80,x"] {
            assert!(Target::parse(unfit, "secret").is_err(), "{unfit}");
        }
    }
}
