//! The mock provider as a process of its own, for load runs.

use hne_load::{
    block_on,
    mock::{MockProvider, Options},
};
use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
    str::FromStr,
};

const USAGE: &str = "\
usage: mock-provider [--listen ADDR] [--threads N] [--api-key KEY] [--defaults OPTIONS]
                     [--max-entries N] [--keep-body BYTES]

  --listen       where to listen (127.0.0.1:9100)
  --threads      threads, each with a listening socket of its own (1)
  --api-key      the bearer key to insist on (none)
  --defaults     options for every model, as in frames-20+gap-20ms (none)
  --max-entries  requests to keep in the books (10000)
  --keep-body    bytes of each request's body to keep (0)

Prints its base URL. GET /__books?from=N&limit=N and /__books/totals show the books; POST /__release with a model's
name, or nothing, lets held streams go. The options are described in the documentation of hne_load::mock.
";

fn main() -> ExitCode {
    let options = match options(env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return say(&mut io::stdout(), USAGE, 0),
        Err(wrong) => return say(&mut io::stderr(), &format!("{wrong}\n\n{USAGE}"), 64),
    };
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&mut io::stderr(), &format!("mock-provider: {error}\n"), 69),
    }
}

fn serve(options: Options) -> io::Result<()> {
    let mock = MockProvider::start(options)?;
    writeln!(io::stdout(), "{}", mock.base_url())?;
    block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    })?
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options =
        Options { listen: ([127, 0, 0, 1], 9100).into(), keep_body: 0, max_entries: 10_000, ..Options::default() };
    while let Some(name) = arguments.next() {
        if name == "--help" {
            return Ok(None);
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => options.listen = parse(&name, &value)?,
            "--threads" => options.threads = parse(&name, &value)?,
            "--api-key" => options.api_key = Some(value),
            "--defaults" => options.defaults = value,
            "--max-entries" => options.max_entries = parse(&name, &value)?,
            "--keep-body" => options.keep_body = parse(&name, &value)?,
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(Some(options))
}

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_unfit| format!("{name} can't be {value}"))
}

fn say(stream: &mut dyn io::Write, text: &str, code: u8) -> ExitCode {
    // Nobody is left to be told if the stream is closed.
    stream.write_all(text.as_bytes()).ok();
    ExitCode::from(code)
}
