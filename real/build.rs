//! Makes clients and servers of the two gRPC services; their messages are `src/wire/messages.rs`, so no protoc is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let call = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::wire::{input}"))
            .output_type(format!("crate::wire::{output}"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let agent = Service::builder()
        .name("Agent")
        .package("medes.v1")
        .comment("What the controller asks of an agent.")
        .method(call("hello", "Hello", "Hello", "Welcome").comment("Who is there; changes nothing.").build())
        .method(
            call("work", "Work", "Order", "Said")
                .comment("Orders, in the order in which they are to take memory; steps of their execution and measured memory come back.")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .method(call("terminate", "Terminate", "Terminate", "Nothing").comment("Ends the agent and all it has.").build())
        .build();
    let controller = Service::builder()
        .name("Controller")
        .package("medes.v1")
        .comment("What agents ask of the controller.")
        .method(
            call("register_pages", "RegisterPages", "RegisterPart", "RegisterAnswer")
                .comment("Enters a base: its head first, then fingerprints of its pages.")
                .client_streaming()
                .build(),
        )
        .method(
            call("lookup_pages", "LookupPages", "LookupBatch", "LookupAnswer")
                .comment("Base pages for pages, batch after batch.")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build();
    Builder::new().compile(&[agent, controller]);
}
