// A keybroker client in Node: lease a key, call the provider, report.
// node client.mjs [broker, default 127.0.0.1:7070] [pool] [model]
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const [target = '127.0.0.1:7070', pool = 'anthropic', model = 'claude-haiku-4-5'] = process.argv.slice(2); // Anthropic's API
const protos = process.env.KEYBROKER_PROTO ?? fileURLToPath(new URL('../../proto', import.meta.url));
const definition = loader.loadSync('keybroker/v1/keybroker.proto', { includeDirs: [protos], longs: Number, defaults: true });
const { KeyBrokerService } = grpc.loadPackageDefinition(definition).keybroker.v1;
const broker = new KeyBrokerService(target, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('keybroker-holder', 'node');
const call = (method, request) => promisify(broker[method].bind(broker))(request, metadata, { deadline: Date.now() + 30_000 });
const ms = (duration) => Number(duration.seconds) * 1000 + duration.nanos / 1e6;

const body = JSON.stringify({ model, max_tokens: 200, messages: [{ role: 'user', content: 'Hello from Node' }] });
const asked = performance.now(); // the lease's times count from here
const lease = await call('AcquireKey', {
  pool, model, inputTokens: Math.ceil(body.length / 4), maxOutputTokens: 200, maxWait: { seconds: 10 },
});
const report = { leaseId: lease.leaseId, final: true }; // of an answer that never came
let answer;
try {
  const left = ms(lease.startWithin) - (performance.now() - asked);
  if (left <= 0) throw new Error('too late to send');
  const response = await fetch(lease.baseUrl + '/v1/messages', {
    method: 'POST', body, redirect: 'error', // a key must not follow a redirect
    signal: AbortSignal.timeout(ms(lease.ttl)),
    headers: {
      'content-type': 'application/json', 'anthropic-version': '2023-06-01',
      [lease.authHeader]: lease.authPrefix + lease.apiKey,
    },
  });
  report.statusCode = response.status;
  report.headers = Object.fromEntries([...response.headers].filter(([name]) => /limit|retry|organization|^date$|^age$/.test(name)));
  const text = await response.text();
  if (response.ok) {
    answer = JSON.parse(text);
    const { input_tokens: inputTokens, output_tokens: outputTokens } = answer.usage;
    report.usage = { inputTokens, outputTokens };
  } else {
    report.errorBody = Buffer.from(text).subarray(0, 16_384);
  }
} finally {
  await call('ReportUsage', report); // whatever came of it
  broker.close();
}
console.log(JSON.stringify({ key: lease.keyId, status: report.statusCode, usage: report.usage, text: answer?.content[0].text }));
