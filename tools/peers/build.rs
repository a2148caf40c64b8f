//! Generates tonic's client and server from a description in Rust: no protoc is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::peers::tonic::Payload")
            .output_type("crate::peers::tonic::Payload")
            .codec_path("tonic_prost::ProstCodec")
    };
    let echo = Service::builder()
        .name("Echo")
        .package("peers")
        .method(method("unary", "Unary").build())
        .method(method("stream", "Stream").client_streaming().server_streaming().build())
        .build();
    Builder::new().compile(&[echo]);
    println!("cargo:rerun-if-changed=build.rs");
}
