//! What does it cost to write and to read an AI request and a chunk of an answer, as JSON and as
//! rkyv?

use std::hint::black_box;

use annulus::protocol::{
    AIRequest, Codec, JsonCodec, Message, MessageRole, RkyvCodec, StreamEvent,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// An autocomplete request: a short instruction and some source around the cursor.
fn request(source_size: usize) -> AIRequest {
    let line = "    let answer = client.complete(&request)?; // \u{201c}quoted\u{201d}\n";
    let source = line.repeat(source_size.div_ceil(line.len()));
    let mut request = AIRequest::new(
        "loopback",
        vec![
            Message::new(MessageRole::System, "Continue the code at the cursor. Answer with code."),
            Message::new(MessageRole::User, source),
        ],
    );
    request.temperature = Some(0.2);
    request.max_tokens = Some(256);
    request
}

fn codecs(criterion: &mut Criterion) {
    let codecs: [(&str, &dyn Codec); 2] = [("json", &JsonCodec), ("rkyv", &RkyvCodec)];
    let event = StreamEvent::Text { text: " answer".into() };
    for (name, codec) in codecs {
        let mut group = criterion.benchmark_group(name);
        let mut buffer = Vec::new();
        for source_size in [200, 8_000] {
            let request = request(source_size);
            buffer.clear();
            codec.encode_request(&request, &mut buffer).expect("it can be written");
            group.throughput(Throughput::Bytes(buffer.len() as u64));
            let encoded = buffer.clone();
            group.bench_function(BenchmarkId::new("encode_request", source_size), |bencher| {
                bencher.iter(|| {
                    buffer.clear();
                    codec.encode_request(black_box(&request), &mut buffer)
                });
            });
            group.bench_function(BenchmarkId::new("decode_request", source_size), |bencher| {
                bencher.iter(|| codec.decode_request(black_box(&encoded)));
            });
        }
        buffer.clear();
        codec.encode_stream_event(&event, &mut buffer).expect("it can be written");
        group.throughput(Throughput::Elements(1));
        let encoded = buffer.clone();
        group.bench_function("encode_chunk", |bencher| {
            bencher.iter(|| {
                buffer.clear();
                codec.encode_stream_event(black_box(&event), &mut buffer)
            });
        });
        group.bench_function("decode_chunk", |bencher| {
            bencher.iter(|| codec.decode_stream_event(black_box(&encoded)));
        });
        group.finish();
    }
}

criterion_group!(benches, codecs);
criterion_main!(benches);
