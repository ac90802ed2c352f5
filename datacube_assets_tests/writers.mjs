// Four rows as Parquet by the writers of npm: `node writers.mjs FOLDER`, with the packages of
// `integration/test_writers.py` beside it. Names of files say which writer made them.
import { readFileSync, writeFileSync } from "node:fs";

const [folder] = process.argv.slice(2);
const rows = [0, 1, 2, 3].map((day) => ({
  timestamp: 1577836800000 + day * 86400000,
  country: "Kenya",
  lat: 1.5 + day,
  lng: 36.5,
  feature: "rain",
  value: day + 0.5,
  crop: day % 2 ? "maize" : null,
  seen: day % 2 === 0,
}));
const types = {
  timestamp: "INT64", country: "STRING", lat: "DOUBLE", lng: "DOUBLE", feature: "STRING", value: "DOUBLE",
  crop: "STRING", seen: "BOOLEAN",
};
const keep = (name, bytes) => writeFileSync(`${folder}/${name}.parquet`, bytes);

const { parquetWriteBuffer } = await import("hyparquet-writer");
for (const codec of ["UNCOMPRESSED", "SNAPPY"]) {
  const columnData = Object.entries(types).map(([name, type]) => ({
    name, type, data: rows.map((row) => (type === "INT64" ? BigInt(row[name]) : row[name])),
  }));
  keep(`hyparquet-writer-${codec}`, new Uint8Array(parquetWriteBuffer({ columnData, codec })));
}

for (const name of ["parquetjs", "@dsnp/parquetjs"]) {
  const parquet = (await import(name)).default;
  for (const compression of ["UNCOMPRESSED", "SNAPPY", "GZIP"]) {
    const fields = Object.entries(types).map(([field, type]) => [field, {
      type: { INT64: "TIMESTAMP_MILLIS", STRING: "UTF8" }[type] ?? type, compression, optional: field === "crop",
    }]);
    const file = `${folder}/writing`;
    const writer = await parquet.ParquetWriter.openFile(
      new parquet.ParquetSchema(Object.fromEntries(fields)), file,
    );
    for (const row of rows) {
      await writer.appendRow({ ...row, timestamp: new Date(row.timestamp), crop: row.crop ?? undefined });
    }
    await writer.close();
    keep(`${name.replace(/\W/g, "")}-${compression}`, readFileSync(file));
  }
}

const wasm = await import("parquet-wasm/node");
const arrow = await import("apache-arrow");
const numbers = { INT64: BigInt64Array, DOUBLE: Float64Array };
const columns = Object.entries(types).map(([name, type]) => [
  name,
  numbers[type]
    ? numbers[type].from(rows.map((row) => (type === "INT64" ? BigInt(row[name]) : row[name])))
    : rows.map((row) => row[name]),
]);
const ipc = arrow.tableToIPC(arrow.tableFromArrays(Object.fromEntries(columns)), "stream");
for (const version of ["V1", "V2"]) {
  const properties = new wasm.WriterPropertiesBuilder()
    .setWriterVersion(wasm.WriterVersion[version])
    .setCompression(wasm.Compression.ZSTD)
    .build();
  keep(`parquet-wasm-${version}`, wasm.writeParquet(wasm.Table.fromIPCStream(ipc), properties));
}
