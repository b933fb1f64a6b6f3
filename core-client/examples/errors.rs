//! What an error tells: what happened, whether to try again, and whether it may have been applied all the same.
//!
//! `cargo run --example errors`, with a server at `HSTREAM_URL` (default `hstream://127.0.0.1:6570`).

use hstreamdb::{Client, DeleteStreamOptions, Error, ErrorKind, Record, Result, StreamOptions};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("HSTREAM_URL").unwrap_or_else(|_| "hstream://127.0.0.1:6570".into());
    run(&url).await
}

/// The example; tests call it too.
pub async fn run(url: &str) -> Result<()> {
    // Options and URLs are checked here, with the rule that was broken.
    explain(&Client::connect("127.0.0.1:6570").await.expect_err("a URL needs its scheme"));
    explain(&Client::builder().set("request_timeout", 5).expect_err("its name carries the unit"));

    let client = Client::connect(url).await?;
    let stream = "errors";
    client.delete_stream(stream, DeleteStreamOptions::new().force(true).ignore_missing(true)).await?;

    // Kinds are for code: the server's status and error code are there too.
    match client.get_stream(stream).await {
        Err(error) if error.kind() == ErrorKind::NotFound => explain(&error),
        Err(error) => return Err(error),
        Ok(_) => unreachable!("it was deleted"),
    }
    client.create_stream(stream, StreamOptions::new()).await?;
    explain(&client.create_stream(stream, StreamOptions::new()).await.expect_err("it exists"));

    // A record no server takes is refused here, and nothing of it is sent.
    let producer = client.producer(stream).build().await?;
    explain(&producer.append(Record::raw(vec![0; 2 << 20])).await.expect_err("above 1 MiB"));

    // What to do about an append that failed.
    let receipt = producer.append(Record::raw("paid 20")).await?;
    match receipt.await {
        Ok(id) => println!("stored as {id}"),
        // Look whether it is there before appending it again; against servers of this suite that never happens
        // while the client lives, because a repeat is recognised.
        Err(error) if error.may_have_been_applied() => explain(&error),
        // It was not stored, and the same call may succeed later.
        Err(error) if error.is_retryable() => explain(&error),
        // It was not stored, and never will be as it is.
        Err(error) => explain(&error),
    }
    client.close(Duration::from_secs(10)).await?;
    explain(&client.list_streams().await.expect_err("the client is closed"));
    Ok(())
}

fn explain(error: &Error) {
    println!("{error}");
    println!(
        "    kind {}, status {:?}, code {:?}, retryable {}, may have been applied {}",
        error.kind(),
        error.status(),
        error.code(),
        error.is_retryable(),
        error.may_have_been_applied()
    );
}
