// What programs do with dockerode (npm), on the engine whose socket is the first argument.
"use strict";
const assert = require("assert");
const { PassThrough, Readable } = require("stream");
const Docker = require("dockerode");

const docker = new Docker({ socketPath: process.argv[2] });
const name = process.argv[3];

function collector() {
  const stream = new PassThrough();
  stream.text = "";
  stream.on("data", (piece) => { stream.text += piece; });
  return stream;
}

const ended = (stream) => new Promise((resolve) => stream.on("end", resolve));
const followed = (stream) => new Promise((resolve, reject) =>
  docker.modem.followProgress(stream, (error, lines) => (error ? reject(error) : resolve(lines))));

async function read(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function refused(status, work) {
  await assert.rejects(work, (error) => error.statusCode === status);
}

async function running() {
  const [out, err] = [collector(), collector()];
  const [result, made] = await docker.run("busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"], [out, err], { Tty: false });
  assert.deepStrictEqual([result.StatusCode, out.text, err.text], [3, "out\n", "err\n"]);
  await made.remove();
  const terminal = collector();
  const [, other] = await docker.run("busybox", ["echo", "tty"], terminal, { Tty: true });
  assert.strictEqual(terminal.text, "tty\r\n");
  await other.remove();
}

async function attaching() {
  const cat = await docker.createContainer({ Image: "busybox", Cmd: ["cat"], OpenStdin: true, StdinOnce: true });
  const stream = await cat.attach({ stream: true, stdin: true, stdout: true, hijack: true });
  await cat.start();
  const out = collector();
  cat.modem.demuxStream(stream, out, out);
  stream.end("through\n");
  assert.strictEqual((await cat.wait()).StatusCode, 0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.strictEqual(out.text, "through\n");
  await cat.remove();
}

async function executing(box) {
  const plain = await box.exec({ Cmd: ["sh", "-c", "cat; exit 4"], AttachStdin: true, AttachStdout: true });
  const stream = await plain.start({ hijack: true, stdin: true });
  const out = collector();
  box.modem.demuxStream(stream, out, out);
  stream.end("in\n");
  await ended(stream);
  assert.deepStrictEqual([out.text, (await plain.inspect()).ExitCode], ["in\n", 4]);
  const shell = await box.exec({ Cmd: ["sh"], AttachStdin: true, AttachStdout: true, Tty: true });
  const terminal = await shell.start({ hijack: true, stdin: true, Tty: true });
  await shell.resize({ h: 20, w: 99 });
  const shown = terminal.pipe(collector());
  terminal.write("stty size; exit\n");
  await ended(terminal);
  assert.match(shown.text, /20 99/);
}

async function looking(box) {
  assert((await box.stats({ stream: false })).memory_stats.usage > 0);
  const stats = await box.stats({ stream: true });
  await new Promise((resolve) => stats.once("data", resolve));
  stats.destroy();
  assert((await box.top({ ps_args: "aux" })).Titles.includes("USER"));
  assert.strictEqual((await docker.listContainers({ filters: { label: [`is=${name}`] } })).length, 1);
  assert.strictEqual((await docker.listContainers({ filters: JSON.stringify({ name: [name] }) })).length, 1);
  assert((await read(await box.export())).length > 500000);
  await docker.info();
  await docker.df();
}

async function images(box) {
  await box.commit({ repo: name, tag: "1", changes: 'CMD ["echo", "c"]' });
  const image = docker.getImage(`${name}:1`);
  assert.deepStrictEqual((await image.inspect()).Config.Cmd, ["echo", "c"]);
  const archive = await read(await image.get());
  await image.remove();
  await followed(await docker.loadImage(Readable.from([archive])));
  await image.tag({ repo: name, tag: "2" });
  assert.strictEqual((await docker.listImages({ filters: { reference: [name] } }))[0].RepoTags.length, 2);
  await image.remove();
  await docker.getImage(`${name}:2`).remove();
}

async function life(box) {
  const stream = await docker.getEvents({ filters: { container: [box.id] } });
  const events = stream.pipe(collector());
  await box.pause();
  await box.unpause();
  await box.update({ Memory: 64 << 20, MemorySwap: -1 });
  await box.rename({ name: `${name}b` });
  await box.kill();
  assert.strictEqual((await box.wait()).StatusCode, 137);
  await new Promise((resolve) => setTimeout(resolve, 200));
  stream.destroy();
  for (const action of ["pause", "unpause", "update", "rename", "kill", "die"]) {
    assert(events.text.includes(`"Action":"${action}"`), action);
  }
  await box.restart({ t: 0 });
  await box.stop({ t: 0 });
  assert(Buffer.isBuffer(await box.logs({ stdout: true, follow: false })));
}

async function others(box) {
  const volume = await docker.createVolume({ Name: name });
  assert.strictEqual((await docker.listVolumes({ filters: { name: [name] } })).Volumes.length, 1);
  await volume.remove();
  const network = await docker.createNetwork({ Name: name });
  await network.connect({ Container: box.id, EndpointConfig: { Aliases: ["other"] } });
  assert((await network.inspect()).Containers[box.id]);
  await network.disconnect({ Container: box.id });
  await network.remove();
  await refused(404, docker.getContainer("nosuch").inspect());
  await refused(404, docker.createContainer({ Image: "nosuch" }));
  await refused(400, docker.listContainers({ filters: "{x" }));
  await refused(503, docker.swarmInspect());
}

async function main() {
  assert.strictEqual((await docker.ping()).toString(), "OK");
  await running();
  await attaching();
  const box = await docker.createContainer({
    Image: "busybox", name, Cmd: ["sleep", "1000"], Labels: { is: name }, HostConfig: { Init: true },
  });
  try {
    await box.start();
    for (const part of [executing, looking, images, others, life]) await part(box);
  } finally {
    await box.remove({ force: true, v: true });
  }
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
