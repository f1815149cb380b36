// node read_by_dcmjs.cjs DCMJS FILE...: prints what dcmjs reads in each document, as a list in JSON.
const fs = require("fs");
const dcmjs = require(process.argv[2]);

function* descendants(item) {
  for (const child of item.ContentSequence || []) {
    yield child;
    yield* descendants(child);
  }
}

function read(path) {
  const bytes = fs.readFileSync(path);
  const start = bytes.byteOffset; // small files share a buffer of node's
  const file = dcmjs.data.DicomMessage.readFile(bytes.buffer.slice(start, start + bytes.byteLength));
  const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(file.dict);
  const items = [...descendants(dataset)];
  const numbers = items
    .filter((item) => item.ValueType === "NUM")
    .map((item) => [item.ConceptNameCodeSequence[0].CodeValue, Number(item.MeasuredValueSequence[0].NumericValue)]);
  const template = dataset.ContentTemplateSequence && dataset.ContentTemplateSequence[0].TemplateIdentifier;
  if (template === "1500") dcmjs.adapters.Cornerstone.MeasurementReport.generateToolState(dataset); // throws where a viewer would
  return {
    sopClass: dataset.SOPClassUID,
    name: dataset.PatientName[0] || {},
    texts: items.filter((item) => item.ValueType === "TEXT").map((item) => item.TextValue),
    numbers,
    bytes: dataset.PixelData ? dataset.PixelData[0].byteLength : 0,
  };
}

process.stdout.write(JSON.stringify(process.argv.slice(3).map(read)));
