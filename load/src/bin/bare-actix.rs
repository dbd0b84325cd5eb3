//! Relaying by actix-web and awc, and nothing else: what the stack takes before anything is checked, kept or charged.
//!
//! `bare-actix ADDRESS URL` listens there, and asks the provider with that base URL.

use std::{env, error::Error, io};

use actix_web::{
    App, HttpResponse, HttpServer,
    error::ErrorBadGateway,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    rt::net::TcpStream,
    web::{self, Bytes, Data, PayloadConfig},
};
use awc::{Client, Connector};

/// Where everything goes, and how.
struct Provider {
    client: Client,
    url: String,
}

async fn relay(provider: Data<Provider>, body: Bytes) -> Result<HttpResponse, actix_web::Error> {
    let request = provider.client.post(&provider.url).bearer_auth("key").content_type("application/json");
    let mut answer = request.send_body(body).await.map_err(|error| ErrorBadGateway(error.to_string()))?;
    let mut response = HttpResponse::build(answer.status());
    if let Some(kind) = answer.headers().get(CONTENT_TYPE) {
        response.insert_header((CONTENT_TYPE, kind.clone()));
    }
    if answer.headers().contains_key(CONTENT_LENGTH) {
        return Ok(response.body(answer.body().await.map_err(ErrorBadGateway)?));
    }
    Ok(response.streaming(answer))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare-actix ADDRESS URL".into());
    };
    let app = move || {
        let client = Client::builder().connector(Connector::new().limit(0)).disable_timeout().finish();
        let provider = Provider { client, url: format!("{upstream}/chat/completions") };
        App::new()
            .app_data(Data::new(provider))
            .app_data(PayloadConfig::new(16 << 20))
            .default_service(web::post().to(relay))
    };
    // Where small writes wait for acknowledgements, frames are 40 ms late.
    let at_once =
        |socket: &dyn std::any::Any| socket.downcast_ref::<TcpStream>().map(|socket| socket.set_nodelay(true));
    let server = HttpServer::new(app).on_connect(move |socket, _| drop(at_once(socket)));
    Ok(server.workers(2).bind(listen)?.run().await.map_err(io::Error::other)?)
}
